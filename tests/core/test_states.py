"""core.states"""

from meuse.core.states import JOB_TRANSITIONS, JobStatus


def test_ended_jobs_stay_ended() -> None:
    """succeeded, failed and cancelled lead nowhere; queued and running lead on."""
    ended = {status for status in JobStatus if status.ended}
    assert {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED} == ended


def test_every_state_is_in_the_table_and_reachable() -> None:
    """The table is complete and nothing in it is unreachable from queued."""
    seen, todo = set(), {JobStatus.QUEUED}
    while todo:
        state = todo.pop()
        seen.add(state)
        todo |= JOB_TRANSITIONS[state] - seen
    assert set(JobStatus) == seen == set(JOB_TRANSITIONS)

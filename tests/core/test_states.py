"""core.states"""

from meuse.core.states import JOB_TRANSITIONS, JobStatus


def test_ended_jobs_stay_ended() -> None:
    """succeeded leads nowhere, failed and cancelled to another attempt at most; the rest lead
    on."""
    ended = {status for status in JobStatus if status.ended}
    assert {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED} == ended
    for status in ended:
        assert JOB_TRANSITIONS[status] <= {JobStatus.QUEUED}
    assert not JOB_TRANSITIONS[JobStatus.SUCCEEDED]


def test_a_paused_job_never_runs_without_its_turn() -> None:
    """paused leads to the queue or to the end, and both running and waiting jobs to paused."""
    assert JOB_TRANSITIONS[JobStatus.PAUSED] == {JobStatus.QUEUED, JobStatus.CANCELLED}
    before = {status for status in JobStatus if JobStatus.PAUSED in JOB_TRANSITIONS[status]}
    assert before == {JobStatus.QUEUED, JobStatus.RUNNING}


def test_every_state_is_in_the_table_and_reachable() -> None:
    """The table is complete and nothing in it is unreachable from queued."""
    seen, todo = set(), {JobStatus.QUEUED}
    while todo:
        state = todo.pop()
        seen.add(state)
        todo |= JOB_TRANSITIONS[state] - seen
    assert set(JobStatus) == seen == set(JOB_TRANSITIONS)

"""deploy.plan: examples of each rule, then a simulated world that must keep them all"""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.nouns import Canary
from meuse.core.states import DeploymentStatus
from meuse.deploy.plan import Replica, Route, Start, Wanted, WantedTarget, plan, settled, status
from meuse.deploy.rollout import Look, Rollout, Seen, advance, weights

NAME = "acme/digits"


def want(*versions: str, replicas: int = 1, error: str | None = None, revision: str = "") -> Wanted:
    share = 100 // max(1, len(versions))
    targets = tuple(WantedTarget(v, share) for v in versions)
    return Wanted(NAME, 1, targets, replicas, error, revision)


def replica(number: int, version: str, ready: bool = True, revision: str = "") -> Replica:
    return Replica(f"r{number}", NAME, version, ready, revision)


def test_a_new_deployment_starts_what_is_missing() -> None:
    """Two replicas wanted, one on its way: one more is started, nothing is routed."""
    step = plan([want("d:1", replicas=2)], [replica(1, "d:1", ready=False)], {})
    assert (Start(NAME, "d:1"),) == step.start
    assert (step.stop, step.routes) == ((), {NAME: ()})


def test_the_old_version_serves_until_the_new_one_is_ready() -> None:
    """While d:2 warms up, d:1 keeps all traffic and nothing is stopped."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    step = plan([want("d:2")], [replica(1, "d:1"), replica(2, "d:2", ready=False)], before)
    assert before == step.routes
    assert step.stop == ()


def test_the_old_version_goes_once_the_new_one_is_ready() -> None:
    """When d:2 is ready it takes the routes, and d:1 may be stopped after that."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    step = plan([want("d:2")], [replica(1, "d:1"), replica(2, "d:2")], before)
    assert {NAME: (Route("d:2", 100, ("r2",)),)} == step.routes
    assert step.stop == ("r1",)


def test_replicas_of_another_revision_are_replaced() -> None:
    """The same version run otherwise: started first, routed when ready, then the old one goes."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    wanted, old = want("d:1", revision="b"), replica(1, "d:1", revision="a")
    step = plan([wanted], [old], before)
    assert (step.start, step.stop, step.routes) == ((Start(NAME, "d:1", "b"),), (), before)
    assert status(wanted, [old], before[NAME], 0) == DeploymentStatus.ROLLING
    step = plan([wanted], [old, replica(2, "d:1", revision="b")], before)
    assert (step.start, step.stop) == ((), ("r1",))
    assert {NAME: (Route("d:1", 100, ("r2",)),)} == step.routes


def test_surplus_replicas_go() -> None:
    """Scaling down keeps as many as wanted, and routes only to those."""
    step = plan([want("d:1")], [replica(1, "d:1"), replica(2, "d:1")], {})
    assert (step.stop, step.routes[NAME][0].replicas) == (("r2",), ("r1",))


def test_replicas_of_a_deleted_deployment_go() -> None:
    """What nobody wants is stopped and not routed."""
    step = plan([], [replica(1, "d:1")], {NAME: (Route("d:1", 100, ("r1",)),)})
    assert (step.stop, step.routes) == (("r1",), {})


def test_a_reference_that_is_gone_changes_nothing() -> None:
    """When a target cannot be resolved, what serves goes on serving."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    step = plan([want(error="there is no d@x")], [replica(1, "d:1")], before)
    assert (before, (), ()) == (step.routes, step.start, step.stop)


def test_a_failing_start_waits_for_its_back_off() -> None:
    """A blocked start is not repeated."""
    step = plan([want("d:1")], [], {}, blocked={Start(NAME, "d:1")})
    assert step.start == ()


def outdated(number: int, version: str) -> Replica:
    return Replica(f"r{number}", NAME, version, True, outdated=True)


def test_replicas_of_older_code_are_replaced_one_by_one() -> None:
    """One successor is started; until it is ready everything old serves; then one old one goes."""
    old = [outdated(1, "d:1"), outdated(2, "d:1")]
    before = {NAME: (Route("d:1", 100, ("r1", "r2")),)}
    step = plan([want("d:1", replicas=2)], old, before)
    assert ((Start(NAME, "d:1"),), (), before) == (step.start, step.stop, step.routes)

    step = plan([want("d:1", replicas=2)], [*old, replica(3, "d:1", ready=False)], before)
    assert ((), (), before) == (step.start, step.stop, step.routes)

    step = plan([want("d:1", replicas=2)], [*old, replica(3, "d:1")], before)
    assert (step.start, step.stop) == ((), ("r1",))
    assert {NAME: (Route("d:1", 100, ("r2", "r3")),)} == step.routes

    step = plan([want("d:1", replicas=2)], [old[1], replica(3, "d:1")], step.routes)
    assert (step.start, step.stop) == ((Start(NAME, "d:1"),), ())


def test_code_is_replaced_in_one_deployment_at_a_time() -> None:
    """Many deployments do not start their successors all at once; nobody's status changes."""
    both = [Wanted(name, 1, (WantedTarget("d:1", 100),), 1) for name in ("acme/a", "acme/b")]
    old = [Replica(w.name[-1], w.name, "d:1", True, outdated=True) for w in both]
    step = plan(both, old, {})
    assert (step.start, step.stop) == ((Start("acme/a", "d:1"),), ())
    routes = step.routes["acme/a"]
    assert status(both[0], old[:1], routes, 0) == DeploymentStatus.READY
    # A successor that is on its way is waited for, whatever else could begin.
    coming = Replica("c", "acme/b", "d:1", False)
    step = plan(both, [*old, coming], {})
    assert (step.start, step.stop) == ((), ())


def test_a_model_that_the_new_code_cannot_start_stays_on_the_old() -> None:
    """It serves on, its start waits for the back-off, and the others are replaced meanwhile."""
    both = [Wanted(name, 1, (WantedTarget("d:1", 100),), 1) for name in ("acme/a", "acme/b")]
    old = [Replica(w.name[-1], w.name, "d:1", True, outdated=True) for w in both]
    step = plan(both, old, {}, blocked={Start("acme/a", "d:1")})
    assert (step.start, step.stop) == ((Start("acme/b", "d:1"),), ())
    assert step.routes["acme/a"] == (Route("d:1", 100, ("a",)),)


def test_older_code_that_nobody_needs_holds_up_nobody() -> None:
    """Only replicas that are wanted are replaced: others leave, or stay, by the other rules."""
    gone = Replica("a", "acme/gone", "d:1", True, outdated=True)
    broken = Replica("b", "acme/broken", "d:1", True, outdated=True)
    wanted = [Wanted("acme/broken", 1, (), 1, "there is no d@x"), want("d:1")]
    step = plan(wanted, [gone, broken, outdated(1, "d:1")], {})
    assert (step.start, step.stop) == ((Start(NAME, "d:1"),), ("a",))


def test_status_tells_the_whole_story() -> None:
    """pending → ready → rolling → degraded → failed, each from what can be seen."""
    one, two = want("d:1"), want("d:2")
    serving = (Route("d:1", 100, ("r1",)),)
    ready = [replica(1, "d:1")]
    assert status(one, [], (), 0) == DeploymentStatus.PENDING
    assert status(one, ready, serving, 0) == DeploymentStatus.READY
    assert status(two, ready, serving, 0) == DeploymentStatus.ROLLING
    assert status(two, ready, serving, 3) == DeploymentStatus.DEGRADED
    assert status(want("d:1", replicas=2), ready, serving, 0) == DeploymentStatus.DEGRADED
    assert status(one, [], (), 3) == DeploymentStatus.FAILED
    assert status(want(error="gone"), [], (), 0) == DeploymentStatus.FAILED


def test_at_rest_it_stays_routed_without_replicas() -> None:
    """Zero replicas wanted: the route stays for requests to wait at, and all replicas go."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    step = plan([want("d:1", replicas=0)], [replica(1, "d:1")], before)
    assert (step.start, step.stop) == ((), ("r1",))
    assert step.routes == {NAME: (Route("d:1", 100, ()),)}
    woken = plan([want("d:1")], [], step.routes)
    assert woken.start == (Start(NAME, "d:1"),)
    assert woken.routes == step.routes


def test_what_may_rest_is_routed_from_the_start() -> None:
    """Requests wait for the first replica of what may have none; elsewhere they are refused."""
    rests = replace(want("d:1"), rests=True)
    assert plan([rests], [], {}).routes == {NAME: (Route("d:1", 100, ()),)}
    assert plan([want("d:1")], [], {}).routes == {NAME: ()}


def test_a_new_replica_takes_traffic_before_the_last_one() -> None:
    """On the way from one to three, each that is ready is routed to at once."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    running = [replica(1, "d:1"), replica(2, "d:1"), replica(3, "d:1", ready=False)]
    step = plan([want("d:1", replicas=3)], running, before)
    assert step.routes == {NAME: (Route("d:1", 100, ("r1", "r2")),)}


def test_the_newest_go_first() -> None:
    """Scaling down keeps the oldest, and also calls off what is not ready yet."""
    running = [replica(3, "d:1"), replica(1, "d:1"), replica(2, "d:1"), replica(4, "d:1", False)]
    step = plan([want("d:1", replicas=2)], running, {})
    assert step.routes[NAME][0].replicas == ("r1", "r2")
    assert set(step.stop) == {"r3", "r4"}


def test_status_of_what_scales() -> None:
    """Growing is ready as long as enough is; at rest is idle, unless it never worked."""
    serving = (Route("d:1", 100, ("r1",)),)
    grows = replace(want("d:1", replicas=3), enough=1)
    assert status(grows, [replica(1, "d:1")], serving, 0) == DeploymentStatus.READY
    short = replace(want("d:1", replicas=3), enough=2)
    assert status(short, [replica(1, "d:1")], serving, 0) == DeploymentStatus.DEGRADED
    rests = want("d:1", replicas=0)
    at_rest = (Route("d:1", 100, ()),)
    assert status(rests, [], at_rest, 0) == DeploymentStatus.IDLE
    assert status(rests, [], at_rest, 3) == DeploymentStatus.FAILED
    woken = replace(want("d:1"), enough=1, rests=True)
    assert status(woken, [], at_rest, 0) == DeploymentStatus.PENDING


class World:
    """Replicas that become ready, die and are stopped, driven by the plan alone."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.replicas: dict[str, Replica] = {}
        self.routes: dict[str, tuple[Route, ...]] = {}
        self.count = 0

    def turn(self, wanted: list[Wanted]) -> None:
        step = plan(wanted, list(self.replicas.values()), self.routes)
        for start in step.start:
            self.count += 1
            name = f"r{self.count:04}"
            self.replicas[name] = Replica(
                name, start.deployment, start.version, False, start.revision
            )
        before = {
            r
            for routes in self.routes.values()
            for route in routes
            for r in route.replicas
            if route.weight
        } & {r.id for r in self.replicas.values() if r.ready}
        self.routes = step.routes
        after = {r for routes in self.routes.values() for route in routes for r in route.replicas}
        assert all(self.replicas[r].ready for r in after)  # no weight on what is not ready
        assert not set(step.stop) & after  # nothing that takes traffic is stopped
        names = {w.name for w in wanted}
        if any(self.replicas[r].deployment in names for r in before):
            assert after  # a deployment that served goes on serving
        for name in step.stop:
            del self.replicas[name]

    def live(self) -> None:
        for name, was in list(self.replicas.items()):
            chance = self.random.random()
            if chance < 0.4:
                self.replicas[name] = replace(was, ready=True)
            elif chance < 0.5:
                del self.replicas[name]


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_new_code_reaches_every_replica(seed: int, count: int) -> None:
    """Under random deaths, with new code every few turns: always served, and all new in the end."""
    world = World(seed)
    wanted = [want("d:1", replicas=count)]
    for turn in range(12):
        world.turn(wanted)
        world.live()
        if turn in (4, 7):
            world.replicas = {n: replace(r, outdated=True) for n, r in world.replicas.items()}
    for _ in range(4 * count + 4):  # no more deaths: it settles
        world.turn(wanted)
        assert len(world.replicas) <= count + 1  # never more than one beyond what is wanted
        world.replicas = {n: replace(r, ready=True) for n, r in world.replicas.items()}
    assert len(world.replicas) == count
    assert not any(r.outdated for r in world.replicas.values())


SPECS = st.tuples(st.sampled_from(["d:1", "d:2", "d:3"]), st.sampled_from("ab"))


@given(st.integers(0, 2**32), st.lists(SPECS, min_size=1))
def test_rollouts_never_lose_traffic(seed: int, specs: list[tuple[str, str]]) -> None:
    """Under random deaths and spec changes: ready targets only, and it always converges."""
    world = World(seed)
    for version, revision in specs:
        for _ in range(world.random.randrange(6)):
            replicas = world.random.choice([1, 2, 3])  # it scales too
            wanted = [want(version, replicas=replicas, revision=revision)]
            world.turn(wanted)
            world.live()
    version, revision = specs[-1]
    wanted = [want(version, replicas=2, revision=revision)]
    for _ in range(4):  # no more deaths: it settles
        world.turn(wanted)
        world.replicas = {name: replace(was, ready=True) for name, was in world.replicas.items()}
    world.turn(wanted)
    assert settled(wanted[0], list(world.replicas.values()))
    assert [version] == [route.version for route in world.routes[NAME]]
    assert [revision] * 2 == [r.revision for r in world.replicas.values()]


def canary(weight: int, replicas: int = 1, shadow: str | None = None) -> Wanted:
    """d:1 stable, d:2 with a weight."""
    targets = (WantedTarget("d:1", 100 - weight), WantedTarget("d:2", weight))
    kept = WantedTarget(shadow, 50) if shadow else None
    return Wanted(NAME, 1, targets, replicas, weighted=True, shadow=kept)


def test_a_candidate_is_started_beside_the_stable_version() -> None:
    """It gets no weight and stops nothing before it is ready."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    step = plan([canary(0)], [replica(1, "d:1")], before)
    assert (step.start, step.stop) == ((Start(NAME, "d:2"),), ())
    assert before == step.routes


def test_weights_hold_at_once_for_what_is_ready() -> None:
    """Also while another replica is away: a rollback must not wait for it."""
    mine = [replica(1, "d:1"), replica(2, "d:2"), replica(3, "d:2", ready=False)]
    step = plan([canary(10, replicas=2)], mine, {NAME: (Route("d:1", 100, ("r1",)),)})
    assert (Route("d:1", 90, ("r1",)), Route("d:2", 10, ("r2",))) == step.routes[NAME]
    back = Wanted(NAME, 1, (WantedTarget("d:1", 100),), 2, weighted=True)
    step = plan([back], mine, step.routes)
    assert (Route("d:1", 100, ("r1",)),) == step.routes[NAME]


def test_the_stable_version_takes_all_when_the_candidate_is_away() -> None:
    """At 100 % as well: its replicas stand by until the candidate is the stable version."""
    both = [replica(1, "d:1"), replica(2, "d:2")]
    step = plan([canary(100)], both, {})
    assert (Route("d:1", 0, ("r1",)), Route("d:2", 100, ("r2",))) == step.routes[NAME]
    assert step.stop == ()
    step = plan([canary(100)], both[:1], step.routes)
    assert (Route("d:1", 100, ("r1",)),) == step.routes[NAME]


def test_requests_wait_when_only_a_weightless_version_is_there() -> None:
    """A candidate that has no weight yet does not answer for the stable version."""
    before = {NAME: (Route("d:1", 100, ("r1",)),)}
    step = plan([canary(0)], [replica(2, "d:2")], before)
    assert (Route("d:1", 100, ()),) == step.routes[NAME]


def test_a_shadow_runs_and_is_never_routed() -> None:
    """One replica of its own, which nothing waits for; it goes when it is not wanted."""
    want_it = Wanted(NAME, 1, (WantedTarget("d:1", 100),), 2, shadow=WantedTarget("s:1", 20))
    step = plan([want_it], [replica(1, "d:1"), replica(2, "d:1")], {})
    assert step.start == (Start(NAME, "s:1"),)
    assert settled(want_it, [replica(1, "d:1"), replica(2, "d:1")])
    assert (step.shadows, len(step.routes[NAME])) == ({}, 1)
    mine = [replica(1, "d:1"), replica(2, "d:1"), replica(3, "s:1"), replica(4, "s:1")]
    step = plan([want_it], mine, step.routes)
    assert {NAME: Route("s:1", 20, ("r3",))} == step.shadows
    assert (step.start, step.stop) == ((), ("r4",))
    step = plan([want("d:1", replicas=2)], mine, step.routes)
    assert (step.stop, step.shadows) == (("r3", "r4"), {})


def test_a_shadow_of_older_code_is_replaced() -> None:
    """As targets are, but at once: nobody waits for it."""
    want_it = Wanted(NAME, 1, (WantedTarget("d:1", 100),), 1, shadow=WantedTarget("s:1", 20))
    mine = [replica(1, "d:1"), replace(replica(2, "s:1"), outdated=True)]
    step = plan([want_it], mine, {})
    assert (step.start, step.stop) == ((Start(NAME, "s:1"),), ("r2",))
    step = plan([want_it], [mine[0], replica(3, "s:1")], step.routes)
    assert (step.start, step.stop) == ((), ())
    assert {NAME: Route("s:1", 20, ("r3",))} == step.shadows


def test_a_candidate_is_its_own_shadow() -> None:
    """Compared by the replicas that take its weight; none more are started."""
    both = [replica(1, "d:1"), replica(2, "d:2")]
    step = plan([canary(10, shadow="d:2")], both, {})
    assert ({NAME: Route("d:2", 50, ("r2",))}, ()) == (step.shadows, step.start)


SPEC = Canary(steps=(1, 50, 100), step_s=2, min_requests=5)


class CanaryWorld(World):
    """As World, with the versions and weights that `rollout` decides from what happens."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.state: Rollout | None = None
        self.now_ms = 0
        self.counts: dict[str, Seen] = {}
        self.faulty = {v for v in ("d:1", "d:2", "d:3") if self.random.random() < 0.3}

    def roll(self, version: str, replicas: int, generation: int) -> Wanted:
        self.now_ms += 1000
        routes = self.routes.get(NAME, ())
        for route in routes:
            if route.weight and route.replicas:
                was = self.counts.get(route.version, Seen())
                bad = 5 if route.version in self.faulty else 0
                latency = (was.latency[0] + 10, *was.latency[1:])
                self.counts[route.version] = Seen(
                    was.ok + 10 - bad, was.failed + bad, latency=latency
                )
        before = self.state
        ready = [r for r in self.replicas.values() if r.version == version and r.ready]
        self.state = advance(
            before,
            Look(
                spec=SPEC, generation=generation, wanted=version,
                serving=[r.version for r in sorted(routes, key=lambda r: -r.weight) if r.replicas],
                ready=len(ready) >= replicas, crashes=int(self.random.random() < 0.02),
                counts=self.counts, now_ms=self.now_ms,
            ),
        )  # fmt: skip
        targets = tuple(WantedTarget(*pair) for pair in weights(self.state, SPEC))
        wanted = Wanted(NAME, generation, targets, replicas, weighted=True)
        stable_before = {
            r.id for r in self.replicas.values() if r.ready and r.version == self.state.stable
        }
        self.turn([wanted])
        weighted = {r.version for r in self.routes[NAME] if r.weight and r.replicas}
        if self.state.candidate is not None:
            # Stable capacity does not shrink; surplus over what is wanted may go.
            left = stable_before & self.replicas.keys()
            assert len(left) >= min(len(stable_before), replicas)
        if self.state.rejected is not None and stable_before:
            assert self.state.rejected not in weighted  # in the step that sends it back
        if stable_before and self.state.candidate is not None:
            assert weighted <= {self.state.stable, self.state.candidate}
        return wanted


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32), st.lists(st.sampled_from(["d:1", "d:2", "d:3"]), min_size=1, max_size=8)
)
def test_canaries_never_lose_traffic(seed: int, versions: list[str]) -> None:
    """Through canaries, faults, crashes, rollbacks and supersession the two rules hold at every
    step; left alone, it ends with the last version everywhere, or with it sent back."""
    world = CanaryWorld(seed)
    replicas = world.random.choice([1, 2])
    for generation, version in enumerate(versions, 1):
        for _ in range(world.random.randrange(14)):
            world.roll(version, replicas, generation)
            world.live()
    for _ in range(40):  # no more deaths: it ends
        wanted = world.roll(versions[-1], replicas, len(versions))
        world.replicas = {
            n: Replica(n, r.deployment, r.version, True) for n, r in world.replicas.items()
        }
    assert world.state is not None
    assert settled(wanted, list(world.replicas.values()))
    assert world.state.candidate is None
    assert versions[-1] in (world.state.stable, world.state.rejected)
    assert [world.state.stable] == [route.version for route in world.routes[NAME]]
    assert len(world.replicas) == replicas

#!/usr/bin/env python3
"""Breaks the crate on purpose, one small breakage after the other: a named test must notice each.

Works on a copy of the tree in mutants/ of the target directory, and first runs the named tests on the unbroken copy,
where each must pass and exist. `tests/run --mutants` calls it; a name or a part of one picks mutants:

    tests/mutants.py [--list] [NAME]...

Ends with 0 if every mutant was noticed, 1 if one was not, 2 if one no longer fits the code.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants"
COPY = WORK / "tree"
BUILD = WORK / "build"
BUILD_LIMIT = 900
# A mutant may well make a test hang; on the unbroken tree each takes seconds.
TEST_LIMIT = 120


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str
    target: tuple  # of cargo test
    test: str


LIB = ("--lib",)
DRIVER = ("--test", "driver")
ENGINE = ("--test", "engine")
DROPIN = ("--test", "redis_dropin")
CLUSTER = ("--test", "redis_cluster")

MUTANTS = [
    # Never run a non-idempotent command twice.
    Mutant("retry what may have run", "src/engine/retry.rs",
           "Class::Unknown(_) => Next::Doubt,", "Class::Unknown(_) => Next::Again,",
           DRIVER, "a_write_lost_after_it_left_is_unknown_and_never_repeated"),
    Mutant("call what was lost never sent", "src/engine/run.rs",
           "sent: !own || !meter.is_armed() || meter.written() != ended.written,", "sent: false,",
           DRIVER, "a_write_lost_after_it_left_is_unknown_and_never_repeated"),
    Mutant("call what was never sent in doubt", "src/engine/run.rs",
           "sent: !own || !meter.is_armed() || meter.written() != ended.written,", "sent: true,",
           DRIVER, "a_write_of_which_no_byte_left_runs_once_over_a_new_connection"),
    Mutant("drop the linger", "src/sockets.rs",
           "    socket.set_linger(Some(Duration::ZERO))?;\n", "",
           LIB, "backends::redis::connector"),
    Mutant("skip the fence", "src/backends/redis/server.rs",
           "            if self.is_of_another_run_than(mark) {", "            if mark.id != 0 {",
           DRIVER, "the_old_connections_are_killed_by_id_and_address_before_the_database_serves_again"),
    Mutant("fence by id alone", "src/backends/redis/server.rs",
           'kills.arg("ADDR").arg(&mark.addr);', "",
           DRIVER, "the_old_connections_are_killed_by_id_and_address_before_the_database_serves_again"),
    Mutant("hand out a reply that nobody asked for", "src/backends/redis/pairing.rs",
           "if *owed == 0 && !self.is_push && !refusal {", "if *owed == u64::MAX && !self.is_push && !refusal {",
           ("--test", "hostile"), "a_server_that_answers_twice_gives_nobody_anothers_reply"),
    Mutant("spend retries without end", "src/engine/retry.rs",
           "if state.tokens < 1.0 {", "if state.tokens < f64::MIN {",
           ENGINE, "retries_stay_within_their_budget"),
    # Never hang past a deadline.
    Mutant("wake nobody at the deadline", "src/engine/calls.rs",
           "                    if slot.deadline <= now {", "                    if slot.deadline <= now && now == 0 {",
           ENGINE, "every_response_timeout_and_deadline_holds_to_ten_milliseconds"),
    Mutant("wait anew after a slot has moved", "src/backends/redis/cluster.rs",
           "cmd = Cow::Owned(with_timeout(&cmd, left));", "cmd = Cow::Owned(with_timeout(&cmd, left.max(Duration::from_secs(4))));",
           CLUSTER, "who_is_sent_on_waits_no_longer_for_it"),
    Mutant("take a caller who gave up for an answer", "src/engine/calls.rs",
           "State::Abandoned if front.read != read => {}", "State::Abandoned => {}",
           LIB, "engine::calls"),
    Mutant("keep a reply without end", "src/sockets/metered.rs",
           "if this.meter.unreplied() > this.cap.load(Ordering::Relaxed) {",
           "if this.meter.unreplied() > this.cap.load(Ordering::Relaxed).max(u64::MAX) {",
           DRIVER, "a_greeting_without_end_is_given_up_and_not_kept_in_memory"),
    # Never charge a failure to the wrong database, or to the wrong time.
    Mutant("book what ended too late", "src/engine/tally.rs",
           "(self.episode.load(Ordering::Acquire) == episode).then_some(pending)",
           "(self.episode.load(Ordering::Acquire) >= episode).then_some(pending)",
           LIB, "what_ends_after_its_episode_is_charged_to_none"),
    Mutant("forget the episode", "src/engine/circuit.rs",
           "    fn changed(&mut self) {\n        self.episode += 1;", "    fn changed(&mut self) {",
           LIB, "every_transition_is_a_new_episode"),
    # Leave in time, and come back in time.
    Mutant("let a probe end the dwell", "src/engine/machine/probing.rs",
           "            CircuitState::Open => {}\n        }\n    }\n\n    /// Somebody",
           "            CircuitState::Open => {\n"
           '                self.half_open(domain, Reason::Recovery, "mutant");\n'
           "                self.recovering(flight, domain);\n"
           "            }\n        }\n    }\n\n    /// Somebody",
           ENGINE, "an_unhealthy_round_opens_the_circuit_and_the_dwell_is_a_real_one"),
    Mutant("believe a ping after READONLY", "src/engine/machine/probing.rs",
           "        let depth = if circuit.opened_by_state() {\n            Depth::Serving",
           "        let depth = if circuit.opened_by_state() {\n            Depth::Alive",
           LIB, "a_database_that_refused_by_its_state_must_show_more_than_a_ping_to_recover"),
    Mutant("rest the same time each time", "src/engine/circuit.rs",
           "(self.dwell * 2).min(", "self.dwell.min(",
           LIB, "engine::circuit"),
    Mutant("prefer the lightest", "src/engine/strategy.rs",
           "candidate.weight > best.weight", "candidate.weight < best.weight",
           LIB, "the_highest_weight_wins_and_ties_are_stable"),
    Mutant("release nobody on a node that lives", "src/backends/redis/lane.rs",
           "Blocked::At(spot) if unblock(core, conn, &spot).await => return Released::Yes,",
           "Blocked::At(spot) if conn.lost.is_lost() && unblock(core, conn, &spot).await => return Released::Yes,",
           CLUSTER, "who_waits_on_a_node_moves_along_with_a_planned_switch_and_back"),
    # Subscriptions.
    Mutant("look for shard channels in one place", "src/backends/redis/pubsub/spread/table.rs",
           "Kind::ShardChannel if self.shards => {", "Kind::ShardChannel if self.shards && self.holds && self.leaving => {",
           CLUSTER, "each_shard_channel_is_subscribed_to_on_the_node_of_its_slot_and_no_node_twice"),
    Mutant("forget one subscription", "src/backends/redis/pubsub/link.rs",
           "        names\n            .map(|name| Change {", "        names\n            .skip(1)\n            .map(|name| Change {",
           DROPIN, "after_a_kill_everything_is_subscribed_on_the_next_database_and_the_gap_is_told"),
    Mutant("subscribe again to what was left", "src/backends/redis/pubsub/follow.rs",
           "Verb::Remove => self.wanted.remove(name),", "Verb::Remove => self.wanted.contains(name),",
           DROPIN, "after_a_kill_everything_is_subscribed_on_the_next_database_and_the_gap_is_told"),
]


def main():
    arguments = sys.argv[1:]
    listed = "--list" in arguments
    wanted = [a for a in arguments if a != "--list"]
    if any(a.startswith("-") for a in wanted):
        print(__doc__, file=sys.stderr)
        return 2
    chosen = [m for m in MUTANTS if not wanted or any(w in m.name for w in wanted)]
    if not chosen:
        print(f"no mutant is called {' or '.join(wanted)}; --list shows them", file=sys.stderr)
        return 2
    if listed:
        for mutant in chosen:
            print(f"{mutant.name:40} {mutant.test}")
        return 0
    unfit = [m for m in chosen if (ROOT / m.file).read_text().count(m.old) < 1]
    for mutant in unfit:
        print(f"{mutant.name}: {mutant.file} no longer has\n{mutant.old}", file=sys.stderr)
    if unfit:
        return 2

    copy_tree()
    print(f"the unbroken tree, {len(chosen)} tests", flush=True)
    sound = True
    for mutant in chosen:
        outcome, output = run(mutant)
        if outcome != "passed":
            print(f"{mutant.test}: {outcome} on the unbroken tree\n{output}", file=sys.stderr)
            sound = False
    if not sound:
        return 2

    survivors = []
    for number, mutant in enumerate(chosen, 1):
        began = time.monotonic()
        path = COPY / mutant.file
        text = path.read_text()
        path.write_text(text.replace(mutant.old, mutant.new, 1))
        try:
            outcome, output = run(mutant)
        finally:
            path.write_text(text)
        took = time.monotonic() - began
        if outcome == "not built":
            print(f"{mutant.name}: does not compile\n{output}", file=sys.stderr)
            return 2
        noticed = outcome in ("failed", "hung")
        if not noticed:
            survivors.append(mutant)
        verdict = "noticed" if noticed else "SURVIVED"
        print(f"{number:2}/{len(chosen)} {verdict:8} {took:4.0f} s  {mutant.name}: {mutant.test}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants noticed")
    return 1 if survivors else 0


def copy_tree():
    """What git would commit, changes included. Files that are the same keep their time, and so their build."""
    listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                             cwd=ROOT, check=True, capture_output=True)
    names = {name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for name in names:
        source, copy = ROOT / name, COPY / name
        if copy.exists() and copy.read_bytes() == source.read_bytes():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(source.stat().st_mode)
    for copy in [p for p in COPY.rglob("*") if p.is_file()]:
        if str(copy.relative_to(COPY)) not in names:
            copy.unlink()


def run(mutant):
    """How the mutant's test ends: passed, failed, hung or not built; and what it said."""
    cargo = ["cargo", "test", "--all-features", *mutant.target]
    built, output = command([*cargo, "--no-run"], BUILD_LIMIT)
    if built != 0:
        return "not built", output
    ended, output = command([*cargo, "--", mutant.test], TEST_LIMIT)
    if ended is None:
        return "hung", output
    ran = sum(int(n) for n in re.findall(r"(\d+) passed", output)) + output.count("... FAILED")
    if ran == 0:
        return "not there", output
    return ("passed" if ended == 0 else "failed"), output


def command(words, limit):
    """Ends with all it started, whether by itself or at the limit (None)."""
    # Nobody debugs a mutant, and what a debugger wants is most of a build.
    environment = dict(os.environ, CARGO_TARGET_DIR=str(BUILD), CARGO_PROFILE_DEV_DEBUG="0", RUST_BACKTRACE="0")
    child = subprocess.Popen(words, cwd=COPY, env=environment, stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = child.communicate(timeout=limit)
        return child.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        return None, output


if __name__ == "__main__":
    sys.exit(main())

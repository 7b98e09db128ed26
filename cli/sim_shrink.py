"""`azimuth sim shrink`: a failing run made small, shown, and kept as a file."""

import time
from dataclasses import asdict
from pathlib import Path

import click

from cli.scenario import echo_json, json_option, make_console
from cli.sim_options import check_writable, repeat, seed_type, spinner, subject_option


@click.command()
@click.option("--seed", type=seed_type, required=True, help="A run that fails.")
@subject_option
@click.option(
    "--runs", type=click.IntRange(min=2), default=400, show_default=True, help="Try so many runs at most."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the smallest run so far here, for `sim run --replay`.",
)
@json_option
def shrink(seed: int, subject: str, runs: int, out: Path | None, as_json: bool) -> None:
    """Make a failing run small: fewest faults and operations that still break the same promise.

    Exit code 0 if the run fails and was made small, 1 if there is nothing to shrink.

    \b
    Examples:
        azimuth sim shrink --seed 42
        azimuth sim shrink --seed 42 --out small.json
        azimuth sim run --replay small.json --trace
    """
    from cli.sim_views import op_json, outcome_view, shrunk_view
    from cluster.sim.config import SimConfig
    from cluster.sim.replay import dump
    from cluster.sim.shrink import Step
    from cluster.sim.shrink import shrink as make_small
    from cluster.sim.simulation import Simulation
    from cluster.sim.simulation import as_json as outcome_json
    from cluster.sim.swarm import draw_config
    from cluster.sim.sweep import make_subject

    check_writable(out)

    def keep(config: SimConfig) -> None:
        if out is not None:
            out.write_text(dump(config, subject), encoding="utf-8")

    def on_step(step: Step, config: SimConfig) -> None:
        status.line(f"run {step.run}: {step.text}; {step.faults} faults, {step.ops} operations")
        keep(config)

    began = time.perf_counter()
    with spinner(f"shrinking seed {seed}") as status:
        shrunk = make_small(
            draw_config(seed),
            lambda: make_subject(subject),
            runs_max=runs,
            on_run=lambda count: status.say(f"shrinking seed {seed}: {count} of at most {runs} runs"),
            on_step=on_step,
        )
        keep(shrunk.config)
        last_began = time.perf_counter()
        final = Simulation(shrunk.config, subject=make_subject(subject))
        outcome = final.run()
        run_s = time.perf_counter() - last_began
    wall_s = time.perf_counter() - began
    if as_json:
        echo_json(
            {
                **outcome_json(outcome),
                "planned": [asdict(fault) for fault in shrunk.config.faults],
                "operations": [op_json(op, outcome.work_began_us) for op in final.history if not op.final],
                "runs": shrunk.runs,
                "complete": shrunk.complete,
                "wall_s": round(wall_s, 3),
                "steps": [asdict(step) for step in shrunk.steps],
                "out": None if out is None else str(out),
            }
        )
        return
    console = make_console()
    console.print(shrunk_view(shrunk, outcome, final.history), highlight=False, soft_wrap=True)
    console.print(outcome_view(outcome, run_s), highlight=False, soft_wrap=True)
    if out is not None:
        again = repeat(("--replay", str(out)), ("azimuth",))
        console.print(f"again: {again}", markup=False, highlight=False, soft_wrap=True)

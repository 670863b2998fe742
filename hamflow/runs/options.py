"""What is said for one command, and is no part of what a run is."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Options:
    """Where a run lies, how it goes on, on which devices, and who is told of it."""

    outdir: Path = Path("runs")  # the folder of all runs
    # Going on
    resume: Path | None = None  # a run folder; its settings are kept
    changed_data: bool = False  # resume though the data were moved, mended or exchanged
    override: bool = False  # resume with other settings whatever they are; the old ones stay as config-until-N.json
    trust: tuple[str, ...] = ()  # modules of yours that the model of --start may use
    replay: Path | None = None  # the nonfinite-<step> folder of the run: say where the first number went wrong
    # Devices: see docs/scaling.md
    mesh: str = ""  # such as data=4,fsdp=2; all devices along data if not given
    microbatches: int = 1  # pieces in which a device takes its part of a batch, to save memory
    coordinator: str | None = None  # of several processes that nothing like Slurm tells of each other: host:port
    num_processes: int | None = None  # how many they are
    process_id: int | None = None  # and which this is, from 0
    # Who is told
    tensorboard: bool = False  # write what stats.jsonl holds for TensorBoard too (needs hamflow[tensorboard])
    wandb: str | None = None  # the project of Weights & Biases to write it to (needs wandb)
    profile: str | None = None  # steps (or dispatches of several) to trace for XProf or Perfetto, such as 10:20
    # Trying
    dry_run: bool = False  # check everything, print the settings and leave
    smoke: bool = False  # a few tiny steps of everything, to see that it runs

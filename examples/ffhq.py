"""Train a Hamiltonian flow on pictures, and write a grid of samples.

    python examples/ffhq.py                                  # embedded faces at 32x32, four minutes on two CPU cores
    python examples/ffhq.py --flow reflection                # the same with another flow
    python examples/ffhq.py --resume runs/00000-...          # go on where a run stopped; its settings are kept
    python examples/ffhq.py --resume runs/00000-... --num-samples 16    # of a finished run: draw again

FFHQ at 64x64 with the published recipe, on however many GPUs there are (a zip in the EDM layout, or a folder):

    python examples/ffhq.py --data ffhq-64x64.zip --resolution 64 --batch 256 --duration 200 --optimizer adam \\
        --lr 2e-4 --lr-rampup 10 --no-lr-decay --beta2 0.999 --dropout 0.05 --xflip --channels 128 \\
        --multipliers 1 2 2 2 --blocks 4 4 4 4 --attention 16 --sampling-steps 40

`--cond` learns one model of all classes. It leaves out a tenth of the labels (`--label-dropout`), so that the model can
be guided: `hamflow sample --network runs/00000-... --outdir out --class 2 --guidance 2`, or `examples/guidance.py`.

The flags are the fields of a recipe, `hamflow.runs.Pictures`, of which `hamflow train` knows some by name: `faces` is
this script, `ffhq` has the settings of that long command and longer intervals. The loop is `hamflow/runs/train.py`.

A run folder holds `samples.png`, `neighbours.png` (the samples beside the training pictures nearest to them),
`loss.png`, `model.safetensors` (the average model, for `hamflow.load`), `config.json`, `stats.jsonl` (one line a step)
and `checkpoints/`. A resumed run may change some settings only; others with `--override`. It trains in no folder that
another process trains in. After Ctrl-C it leaves with 130, after SIGTERM with 143, after a hang-up with 129, all steps
saved; a second signal ends it at once. A loss that is not finite leaves `nonfinite-<step>/`, and `--replay` names the
first layer that went wrong.
"""

from pathlib import Path

from hamflow.runs import Pictures, command_line


def main() -> Path | None:
    """Train with what the command line says, and draw samples; the run folder, or None of a dry run."""
    return command_line(Pictures(), description=__doc__)


if __name__ == "__main__":
    main()

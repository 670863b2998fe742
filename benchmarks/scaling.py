"""What a training step sends between devices, read from its compiled program, on 1, 2, 4 and 8 pretend devices.

    python benchmarks/scaling.py                  # a small U-Net, a few minutes on two cores
    python benchmarks/scaling.py --channels 128 --blocks 4 4 4 4 --multipliers 1 2 2 2 --resolution 64   # FFHQ's

Weak scaling: each device keeps its rows, so what could grow with the number of devices is what they send. Every
collective of the program is listed with the bytes of its result on one device, and turned into bytes sent by a device
in a ring: an all-reduce of B bytes over n devices sends 2 B (n - 1) / n, an all-gather or a reduce-scatter whose whole
is B bytes sends B (n - 1) / n (Thakur, Rabenseifner and Gropp 2005). XLA's CPU writes an all-reduce and a slice where
a GPU's has a reduce-scatter, which sends half.
"""

import argparse
import json
import os
import re
import subprocess
import sys

SIZES = {8: ("f64", "s64", "u64"), 4: ("f32", "s32", "u32"), 2: ("bf16", "f16"), 1: ("s8", "u8", "pred")}
NUMBER_OF_BYTES = {kind: size for size, kinds in SIZES.items() for kind in kinds}
MESHES = ((1, 1, 1), (2, 1, 1), (4, 1, 1), (8, 1, 1), (8, 1, 4), (4, 2, 1), (2, 4, 1), (1, 8, 1))
COLLECTIVE = re.compile(r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")  # {{0,1},{2,3}}
COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")  # [4,2]<=[8]
NAMED = re.compile(r"replica_groups=mesh\[(.*?)\].*? \{(.*?)\}")  # mesh['a'=4,'b'=2], ... {'b'}


def sent_by_a_device(program: str, num_devices: int) -> dict[str, float]:
    """Bytes that one device sends in a step, by kind of collective."""
    sent: dict[str, float] = {}
    for line in program.splitlines():
        found = COLLECTIVE.search(line)
        if not found:
            continue
        arrays = re.findall(r"([a-z]+\d+|pred)\[([\d,]*)\]", found[1])
        size = sum(NUMBER_OF_BYTES[kind] * product(shape) for kind, shape in arrays)
        n = group_size(line, num_devices)
        share = (n - 1) / n
        cost = {"all-reduce": 2 * size * share, "reduce-scatter": size * n * share}.get(found[2], size * share)
        sent[found[2]] = sent.get(found[2], 0.0) + cost
    return sent


def group_size(line: str, num_devices: int) -> int:
    """How many devices take part, in any of the three ways in which XLA writes that."""
    if found := LISTED.search(line):
        return len(found[1].split(","))
    if found := COUNTED.search(line):
        return int(found[1])
    if found := NAMED.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return product(",".join(sizes[name] for name in re.findall(r"'(\w+)'", found[2])))
    return num_devices


def product(shape: str) -> int:
    result = 1
    for size in filter(None, shape.split(",")):
        result *= int(size)
    return result


def compile_one(options: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", options.data * options.fsdp)
    import jax.numpy as jnp
    import optax

    import hamflow as hf
    from hamflow import training
    from hamflow.data import to_float
    from hamflow.networks.unet import UNet

    flow, mesh = hf.oscillation(), training.device_mesh(data=options.data, fsdp=options.fsdp)
    network = UNet(
        options.resolution, channels_in=3, base_channels=options.channels, channel_multipliers=options.multipliers,
        blocks_per_level=options.blocks, key=jax.random.key(0),
    )  # fmt: skip
    model = hf.Preconditioned(network, flow, 0.5)
    optimizer, trainable = optax.adam(1e-3), model.trainable()
    state = training.init_state(model, optimizer, trainable=trainable)
    where = training.state_sharding(state, mesh)
    state = training.shard(state, where)

    def loss(model, batch, key):
        return hf.velocity_matching_loss(model, flow, to_float(batch["image"]), key), {}

    step = training.make_step(
        loss, optimizer, trainable=trainable, sharding=where, microbatches=options.microbatches, rows_together=1
    )
    rows = options.rows * mesh.size * options.microbatches
    picture = jnp.zeros((rows, 3, options.resolution, options.resolution), jnp.uint8)
    batch = training.shard_batch({"image": picture}, mesh)
    compiled = step.trace(state, batch, jax.random.key(1)).lower().compile()
    parameters = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(training.split(model, trainable)[0]))
    kept = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state) if isinstance(x, jax.Array))
    sent = sent_by_a_device(compiled.as_text(), mesh.size)
    json.dump({"parameters": parameters, "kept": kept, "sent": sent}, sys.stdout)


def main(options: argparse.Namespace) -> None:
    if options.one:
        compile_one(options)
        return
    print("| data | fsdp | microbatches | state on a device, MB | sent by a device a step, MB | over the parameters |")
    print("|---|---|---|---|---|---|")
    for data, fsdp, microbatches in MESHES:
        more = ["--one", "--data", str(data), "--fsdp", str(fsdp), "--microbatches", str(microbatches)]
        ended = subprocess.run([sys.executable, __file__, *sys.argv[1:], *more], capture_output=True, text=True)
        if ended.returncode:
            sys.exit(ended.stderr)
        found = json.loads(ended.stdout)
        total = sum(found["sent"].values())
        kinds = ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in sorted(found["sent"].items()))
        numbers = f"{found['kept'] / 1e6:.2f} | {total / 1e6:.2f} ({kinds}) | {total / found['parameters']:.2f}"
        print(f"| {data} | {fsdp} | {microbatches} | {numbers} |", flush=True)
    print(f"\nparameters: {found['parameters'] / 1e6:.2f} MB; {os.cpu_count()} cores")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--multipliers", type=int, nargs="+", default=(1, 1, 2))
    parser.add_argument("--blocks", type=int, nargs="+", default=(0, 1, 1))
    parser.add_argument("--rows", type=int, default=1, help="rows of a batch on each device, in each microbatch")
    for name in ("data", "fsdp", "microbatches"):
        parser.add_argument(f"--{name}", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    main(parser.parse_args())

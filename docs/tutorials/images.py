# %% [markdown]
# # Images
#
# What `python examples/ffhq.py` does, piece by piece, small enough to run while this page is built; then the same on
# your own pictures, on one GPU, on eight and on several hosts, and how a run goes on after whatever stopped it.
#
# ## Pictures
#
# A source of pictures is a zip, a folder or an array; 997 emoji portraits ship with the package. `hamflow data PATH`
# says what is in one, and what is damaged. Some are held out: never trained on, only measured.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

import hamflow as hf
from hamflow import data, training
from hamflow.networks.unet import UNet

source = data.open_images(data.embedded_faces(), resolution=16)
source, held_out = data.split_source(source, 0.05)
print(len(source), "to train on,", len(held_out), "held out;", source[0]["image"].shape)

# %% [markdown]
# Batches are a function of the seed and of the step, and of nothing else: nothing has to be remembered to go on.

# %%
first = next(data.batches(source, 64, seed=0))
again = next(data.batches(source, 64, seed=0))
print(np.array_equal(first["image"], again["image"]))

# %% [markdown]
# ## A flow and a network
#
# An oscillator whose frequency is one over the deviation of the data keeps the variance where it is, so the network
# sees inputs of one size at all times. The network is the U-Net of the published recipes, with less of everything.

# %%
pictures = data.to_float(jnp.asarray(first["image"]))
data_mean, data_std = float(pictures.mean()), float(pictures.std())
flow = hf.oscillation(frequency=1.0 / data_std)
network = UNet(
    16,
    channels_in=3,
    base_channels=16,
    channel_multipliers=(1, 2),
    blocks_per_level=(0, 1),
    key=jr.key(0),
)
model = hf.Preconditioned.from_data(network, flow, pictures, jr.key(1))


def loss(model, batch, key):
    images = data.to_float(batch["image"])
    return hf.velocity_matching_loss(model, flow, images, key), {}


# %% [markdown]
# ## A step
#
# A training is a state (the model, its average, the optimiser, how far it is) and a step that takes it on. Both are
# placed on a mesh of devices, of which this machine has one; on eight not a line is different.

# %%
mesh = training.device_mesh()
optimizer, trainable = optax.adam(4e-3, b2=0.99), model.trainable()
state = training.init_state(model, optimizer, trainable=trainable, mesh=mesh)
where = training.state_sharding(state, mesh)
key = training.replicate(jr.key(2), mesh)
step = training.make_step(
    loss,
    optimizer,
    training.ExponentialMovingAverage(2_000),
    trainable=trainable,
    sharding=where,
    rows_together=1,
)

# %% [markdown]
# Before the first step is made it can be asked what it costs. What is compiled for that is used by the loop.

# %%
cost = training.measure_cost(step, state, training.shard_batch(first, mesh), key)
print(cost)

# %% [markdown]
# ## The loop
#
# The pieces are put together by hand, so that yours may look different. `feed` sends the next batches while the
# devices compute; the recorder reads the numbers a few steps late, so that nothing waits for them, and raises at the
# first that is not finite. The held-out loss uses the same random draws each time, so its curve is smooth.

# %%
# The progress bar of a script would be `training.Progress`, its log `training.StatsLog`.
records, held_out_records = [], []
record = training.Recorder(records.append)
validate = training.HeldOutLoss(loss, list(data.batches_in_order(held_out, 50)), jr.key(3))
stream = data.batches(source, 16, seed=0)
for n, (read, batch) in zip(range(120), training.feed(stream, mesh), strict=False):
    state, metrics = step(state, batch, key)
    record(metrics, read["index"])
    if n % 20 == 19:
        held_out_records.append((n, float(validate(state.ema)["held_out_loss"])))
record.flush()
stream.close()

# %% alt="Training and held-out loss over 120 steps"
plt.plot([r["loss"] for r in records], color="0.8", label="training")
plt.plot(*zip(*held_out_records, strict=True), "o-", label="held out, averaged model")
plt.xlabel("step")
plt.ylabel("loss")
plt.ylim(0, 1.2)
plt.legend(frameon=False)
plt.show()

# %% [markdown]
# Nobody would call what this network draws a face: it has seen each picture twice. The script goes on for four
# minutes on two CPU cores, at 32x32, and ends with these:
#
# ![32 portraits that the quickstart generated](../assets/faces.png)
#
# ## What is known by heart
#
# Beside each sample of that run, the pictures it was trained on that are nearest to it. A model that repeats its data
# shows itself here, so the script always writes this as `neighbours.png`.
#
# ![Twelve samples, each beside its four nearest training pictures](../assets/neighbours.png)
#
# The yardstick are pictures that were held out: how far are *they* from the nearest one that was trained on? For
# samples the script prints their distance over that. Here, for some that are copied on purpose:

# %%
held = np.stack([held_out.read(i) for i in range(len(held_out))])
copies = np.stack([source.read(i) for i in range(8)])
yardstick = data.nearest_neighbours(held, source)
print("copies:", data.memorisation(data.nearest_neighbours(copies, source), yardstick))

# %% [markdown]
# ## A run that is stopped
#
# A checkpoint is everything that training changes, and the key. It is written beside the training, renamed into place
# when it is complete, and checked byte for byte when it is read.

# %%
with training.Checkpoints("checkpoints") as checkpoints:
    checkpoints.save(state, key)
with training.Checkpoints("checkpoints") as checkpoints:
    restored, key, position = checkpoints.restore(state, key)
same = jax.tree.map(
    np.array_equal, *(eqx.filter(s.model, eqx.is_array) for s in (state, restored))
)
print("step", int(restored.step), "all arrays equal:", all(jax.tree.leaves(same)))

# %% [markdown]
# The script does this every so often, at Ctrl-C and at SIGTERM, and then prints the command that goes on:
#
# ```sh
# python examples/ffhq.py --resume runs/00000-faces64-32-uncond-oscillation-batch8-seed0
# ```
#
# The settings of the run are taken from its folder. Those that would make another run of it are refused, with the
# difference; `--override` accepts them and keeps the old ones beside the new.
#
# | what happened | what is left | what to do |
# |---|---|---|
# | Ctrl-C, SIGTERM | all steps | `--resume` |
# | SIGKILL, a power cut, a full disk | the last complete checkpoint | `--resume` |
# | a flipped byte in a checkpoint | the one before, which the error names | move the damaged one away, `--resume` |
# | a loss that is not finite | the state before that step, and the step in `nonfinite-N/` | `--replay` names the layer where it began; `--lr`, or `--on-nonfinite skip` |
# | a damaged picture | all steps before it | `--skip-corrupt`, or mend it |
# | two trainers on one folder | the first one's run | the second is refused |
#
# A run that was cut off has no `model.safetensors` yet. `hamflow export RUN` writes it, from the latest checkpoint or from
# any other, also while the training goes on.
#
# ## FFHQ
#
# Prepare the pictures once, cut and resized, in a form that feeds a GPU from one CPU core:
#
# ```sh
# hamflow data ffhq-1024/ --resolution 64 --convert ffhq-64x64.zip
# ```
#
# On one GPU, with the published recipe, 32 pictures at a time:
#
# ```sh
# hamflow train ffhq --data ffhq-64x64.zip --microbatches 8 --tensorboard
# ```
#
# `hamflow train` knows some recipes by name: `faces` is the script above, `ffhq` the same with the settings of the
# published model. On the eight GPUs of a host `--mesh data=8` takes the place of `--microbatches 8`, on four such hosts it is
# `--batch 1024 --mesh data=32` behind `srun`: [Many devices](../scaling.md) has these commands, and
# `examples/slurm/` the scripts. The loss is the same for the same batch, so a run may move from one to the other.

"""Runs on every rank, see `trainer.py`: windows of training steps, ours and HF `Trainer`'s by turns."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from transformers import Trainer as HfTrainer
from transformers import TrainerCallback, TrainingArguments

from pipeline.cli.errors import run_guarded
from pipeline.cli.session import Session
from pipeline.config.deepspeed import render_deepspeed
from pipeline.models.load import load_model, trainable_parameters
from pipeline.runlog.events import read_event_lines
from pipeline.types import MicroBatch
from tests.bench.mini_worker import hand_back, new_trainer, open_session, worker_parser


def work() -> None:
    """Rank 0 hands back the seconds of each window, and how far the two ways' weights are apart in the end."""
    parser = worker_parser()
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--peer", choices=("hf", "padded", "none"), required=True)
    parser.add_argument("--seconds", type=float, default=0.0, help="with --peer none: train for so long")
    options = parser.parse_args()
    session = open_session(options)
    if options.peer == "none":
        hand_back(session, train_for(session, options.seconds))
        return
    loader = session.train_loader(dict.fromkeys(session.data.datasets, 1.0), seed=0)
    steps = [loader.next_step() for _ in range(options.window)]
    ours = Ours(session, steps)
    if options.peer == "padded":
        numbers = against_padded(session, ours, steps, options.rounds)
    else:
        numbers = against_hf(session, ours, steps, options.rounds)
    samples = options.window * session.recipe.train.global_batch
    hand_back(session, {**numbers, "samples": samples, "parameters": _size(session.engine.module)})


class FixedSteps:
    """A loader that hands out the same steps again and again."""

    skipped = 0

    def __init__(self, steps: list[list[MicroBatch]]) -> None:
        self._steps, self._next = steps, 0

    def next_step(self) -> list[MicroBatch]:
        self._next += 1
        return self._steps[(self._next - 1) % len(self._steps)]

    def set_weights(self, weights: dict[str, float]) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Ours:
    """Our trainer with its defaults: with its log and its accounts, without evaluation and sketch."""

    def __init__(self, session: Session, steps: list[list[MicroBatch]]) -> None:
        self.trainer, self._session, self._window = new_trainer(session), session, len(steps)
        self.trainer.loader = FixedSteps(steps)

    def window(self, steps: list[list[MicroBatch]] | None = None) -> float:
        """Seconds of one window, its end waited for; `steps` from now on, where they are given."""
        if steps is not None:
            self.trainer.loader = FixedSteps(steps)
        return timed(lambda: self.trainer.warm_up(self.trainer.clock.step + self._window), self._session)


def timed(work: Any, session: Session) -> float:
    session.comm.barrier()
    started_s = time.perf_counter()
    work()
    if session.device.type == "cuda":
        torch.cuda.synchronize()
    session.comm.barrier()
    return time.perf_counter() - started_s


def against_hf(session: Session, ours: Ours, steps: list[list[MicroBatch]], rounds: int) -> dict[str, Any]:
    """One long run of HF `Trainer`; at the end of each of its windows it waits while ours runs one."""
    recipe = session.recipe
    torch.manual_seed(recipe.train.seed)
    model = load_model(recipe.model)
    before = {name: p.detach().clone() for name, p in trainable_parameters(model).items()}
    seconds: dict[str, list[float]] = {"hf": [], "ours": []}
    started_s = 0.0

    class Turns(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            nonlocal started_s
            if state.global_step % len(steps):
                return
            if session.device.type == "cuda":
                torch.cuda.synchronize()
            session.comm.barrier()
            if state.global_step > len(steps):  # of the first window both have their warm-up
                seconds["hf"].append(time.perf_counter() - started_s)
                seconds["ours"].append(ours.window())
            else:
                ours.window()
            session.comm.barrier()
            started_s = time.perf_counter()

    class FixedBatches(HfTrainer):
        def get_train_dataloader(self) -> Any:
            batches = [dict(batch.inputs) for step in steps for batch in step]
            return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    peer = FixedBatches(
        model=model.train(),
        args=hf_arguments(session, (rounds + 1) * len(steps)),
        train_dataset=[dict(batch.inputs) for step in steps for batch in step],  # for its length
        callbacks=[Turns()],
    )
    peer.model_accepts_loss_kwargs = False  # this model's loss is a mean over the micro-batch, as ours
    peer.train()
    return {"seconds": seconds, "apart": weights_apart(session.engine.module, model, before, session)}


def hf_arguments(session: Session, max_steps: int) -> TrainingArguments:
    """The same optimizer, batch and DeepSpeed JSON; nothing that costs time and is of no use here."""
    train, dtype = session.recipe.train, session.recipe.model.dtype
    optimizer = train.optimizer
    assert optimizer.name == "adamw" and optimizer.betas and train.lr_schedule.kind == "constant"
    config = render_deepspeed(session.recipe, session.comm.world_size)
    return TrainingArguments(
        output_dir=f"{session.recipe.out}/hf",
        max_steps=max_steps,
        per_device_train_batch_size=train.micro_batch,
        gradient_accumulation_steps=config["gradient_accumulation_steps"],
        max_grad_norm=config["gradient_clipping"],
        learning_rate=optimizer.lr,
        lr_scheduler_type="constant",
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps or 1e-8,
        weight_decay=optimizer.weight_decay,
        bf16=dtype == "bf16",
        deepspeed=config,
        use_cpu=session.device.type == "cpu",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=session.device.type == "cuda",
    )


def weights_apart(ours: Any, theirs: Any, before: dict[str, torch.Tensor], session: Session) -> float:
    """The largest difference of a weight between the two ways, as a share of how far training moved any."""
    apart = moved = 0.0
    rank, world_size = session.comm.rank, session.comm.world_size
    pairs: list[tuple[str, Any, Any]] = [
        (name, own, other)
        for (name, own), other in zip(
            trainable_parameters(ours).items(), trainable_parameters(theirs).values(), strict=True
        )
    ]
    for name, own, other in pairs:
        slices = own.ds_tensor.float(), other.ds_tensor.float()
        length = math.ceil(own.ds_numel / world_size)
        start = before[name].flatten()[rank * length : (rank + 1) * length].to(slices[0].device)
        apart = max(apart, float((slices[0] - slices[1]).abs().max()))
        moved = max(moved, float((slices[0][: len(start)] - start).abs().max()) if len(start) else 0.0)
    ranks = session.comm.gather_objects((apart, moved))
    return float(max(apart for apart, _ in ranks) / max(moved for _, moved in ranks))


def against_padded(session: Session, ours: Ours, steps: list[list[MicroBatch]], rounds: int) -> dict[str, Any]:
    """The same micro-batches and the same with every clip padded to the whole window."""
    family = session.encode.family
    assert family is not None and family.features_mask is not None
    mask = family.features_mask
    padded = [[replace(batch, inputs=_to_window(batch.inputs, session, mask)) for batch in step] for step in steps]
    ways = {"as_long_as_clips": steps, "padded": padded}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            took = ours.window(ways[name])
            if number >= 0:
                seconds[name].append(took)
    frames = {name: sum(b.inputs["input_features"].shape[-1] for step in ways[name] for b in step) for name in ways}
    return {"seconds": seconds, "frames": frames}


def _to_window(inputs: dict[str, torch.Tensor], session: Session, mask: str) -> dict[str, torch.Tensor]:
    """Silence behind every clip, up to the window of the model's own front, outside the mask."""
    more = session.processor.feature_extractor.nb_max_frames - inputs["input_features"].shape[-1]
    wide = {name: torch.nn.functional.pad(inputs[name], (0, more)) for name in ("input_features", mask)}
    return {**inputs, **wide}


def train_for(session: Session, seconds: float) -> dict[str, Any]:
    """Train on the loader's own steps for so long; the numbers of the log's last step."""
    trainer = new_trainer(session)
    started_s = time.perf_counter()
    while session.comm.broadcast_object(time.perf_counter() - started_s < seconds):
        trainer.warm_up(trainer.clock.step + 1)
    last = read_event_lines(session.events.path)[0][-1]
    return {key: last[key] for key in ("step", "samples", "loss", "throughput", "memory")} | {
        "parameters": _size(session.engine.module)
    }


def _size(model: Any) -> dict[str, int]:
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return {"all": sum(n for n, _ in sizes), "trained": sum(n for n, learns in sizes if learns)}


if __name__ == "__main__":
    run_guarded(work)

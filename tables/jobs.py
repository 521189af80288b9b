"""Turn planned pretrainings and evaluations into jobs: commands, synthetic data and output folders."""

import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.store_format import INFO_FILE
from engine.checkpoint import checkpoint_name
from engine.report import RESULTS
from models.registry import join_representations
from options.defaults import checkpoint_folder

from .paper import PaperRow
from .plan import EvaluationSpec, PretrainingSpec, evaluations_of
from .run import Job, script_command
from .settings import Scale

# Synthetic data of the smoke scale. None of the actions is beyond NTU-60's, so both NTU stores contain
# the same clips.
SYNTHETIC_NTU = {"subjects": 8, "actions": [7, 8, 9, 22, 23, 50], "repetitions": 3}
SYNTHETIC_NTU |= {"in_turn": True, "difficulty": 0.1}
SYNTHETIC_PKU = {"subjects": 4, "actions_per_video": 6, "difficulty": 0.1}


def pretraining_folder(spec: PretrainingSpec) -> Path:
    """Return the folder of a pretraining below that of all: as in the official commands and the scripts."""
    flags = Namespace(checkpoint_path=None, pairs=spec.contrast, dataset=spec.dataset, protocol=spec.protocol)
    folder, default = checkpoint_folder(flags, spec.representations), PretrainingSpec((), "", "")
    parts = [folder.name]
    if spec.augmentations != default.augmentations:
        parts += spec.augmentations or ("unaugmented",)
    for name, prefix in (("jitter_joints", ""), ("min_crop_ratio", ""), ("seed", "seed")):
        if (value := getattr(spec, name)) != getattr(default, name):
            parts.append(f"{prefix}{value}")
    return Path(folder.parent.name, "_".join(parts))


def evaluation_name(spec: EvaluationSpec) -> str:
    """Return the folder name of an evaluation: dataset, encoder, label fraction, seed and pretrainings."""
    parts = [f"{spec.dataset}_{spec.protocol}", join_representations(spec.representations)]
    parts += [] if spec.label_fraction is None else [f"labels{spec.label_fraction}"]
    pretrained = [str(pretraining_folder(x)).replace(os.sep, "_") for x in spec.pretrained]
    return "_".join([*parts, f"seed{spec.seed}", *(["of", *pretrained] if pretrained else [])])


@dataclass(frozen=True)
class JobBuilder:
    """Builds the jobs of one scale; pretrainings are in ``checkpoints``, results in ``folder``."""

    scale: Scale
    data_root: Path
    checkpoints: Path
    folder: Path
    extra_flags: tuple[str, ...] = ()  # appended to every pretraining and evaluation command

    def dataset(self, dataset: str) -> tuple[Job, ...]:
        """Return the job that prepares a store, after that of its raw files; none at the paper's scale."""
        if not self.scale.synthetic:
            return ()
        root, store = self.data_root, self.data_root / dataset
        if dataset.startswith("ntu"):
            raw, given = root / "raw_ntu", SYNTHETIC_NTU
            paths = {"dataset": dataset, "data_path": raw}
        else:
            raw, part = root / f"raw_{dataset}", dataset[-1]
            given = {**SYNTHETIC_PKU, "part": part, "seed": part}
            paths = {"part": part, "data_path": raw / "skeletons"}
            paths |= {"label_path": raw / "labels", "split_path": raw / "splits"}
        family = dataset[:3]
        generate = script_command(f"data_gen/synthetic/make_{family}.py", {**given, "out_folder": raw})
        prepare = script_command(f"data_gen/{family}_gendata.py", {**paths, "out_folder": store})
        raw_files = Job(f"synthetic skeleton files, {raw.name}", generate, raw)
        return (Job(f"store of {dataset}", prepare, store / INFO_FILE, (raw_files,)),)

    def pretraining(self, spec: PretrainingSpec) -> Job:
        """Return the job of a pretraining; its output is the last checkpoint."""
        folder = self.checkpoints / pretraining_folder(spec)
        flags = self.scale.pretraining_flags(spec.dataset)
        command = script_command(
            f"main_moco_{spec.contrast}_skeleton.py",
            {
                "pre_dataset": spec.dataset,
                "protocol": spec.protocol,
                "data_root": self.data_root,
                "skeleton_representation": join_representations(spec.representations),
                **flags,
                "augmentations": spec.augmentations,
                "jitter_joints": spec.jitter_joints,
                "min_crop_ratio": spec.min_crop_ratio,
                **self.scale.sizes,
                "seed": spec.seed,
                # Only the first and the last: at the paper's sizes a checkpoint is over 600 MB.
                "save_freq": flags["epochs"],
                "checkpoint_path": folder,
                "resume": "auto",
            },
        )
        name, output = f"{folder.parent.name} {folder.name}", folder / checkpoint_name(flags["epochs"] - 1)
        command += self.extra_flags
        return Job(f"pretraining {name}", command, output, self.dataset(spec.dataset))

    def evaluation(self, spec: EvaluationSpec) -> Job:
        """Return the job of an evaluation; its output is ``results.json``, it depends on its pretrainings."""
        pretrainings = [self.pretraining(pretraining) for pretraining in spec.pretrained]
        # Official checkpoints do not store their representations.
        pretrained_as = [join_representations(pretraining.representations) for pretraining in spec.pretrained]
        folder = self.folder / spec.task / evaluation_name(spec)
        flags = {
            "finetune_dataset": spec.dataset,
            "protocol": spec.protocol,
            "data_root": self.data_root,
            "pretrained": [job.output for job in pretrainings] or None,
            "pretrain_skeleton_representation": pretrained_as or None,
            "finetune_skeleton_representation": join_representations(spec.representations),
            **({} if pretrainings else self.scale.sizes),
            "seed": spec.seed,
            "output_dir": folder,
        }
        if spec.task == "retrieval":
            script, flags = "action_retrieval.py", {**flags, "knn_neighbours": 1}
        else:
            script, flags = "action_classification.py", {"mode": spec.task, **flags, "resume": "auto"}
            flags |= self.scale.classifier[spec.task]
        if spec.label_fraction is not None:
            flags |= {"label_fraction": spec.label_fraction, "label_sampling": "balanced"}
            flags["label_seed"] = spec.seed
        command = script_command(script, flags) + self.extra_flags
        dependencies = (*self.dataset(spec.dataset), *pretrainings)
        return Job(f"{spec.task} {folder.name}", command, folder / RESULTS, dependencies)

    def is_available(self, row: PaperRow, seeds: Sequence[int]) -> bool:
        """Return whether ``row`` is a linear probe or retrieval of pretrainings that are all finished."""
        specs = evaluations_of(row, seeds, self.scale.label_seeds)
        finished = all(self.pretraining(p).is_done for spec in specs for p in spec.pretrained)
        return finished and all(spec.task in ("linear", "retrieval") for spec in specs)

    def evaluations(self, rows: Iterable[PaperRow], seeds: Sequence[int]) -> list[Job]:
        """Return the jobs of the evaluations that fill the cells ``rows``, each once."""
        specs = (spec for row in rows for spec in evaluations_of(row, seeds, self.scale.label_seeds))
        return [self.evaluation(spec) for spec in dict.fromkeys(specs)]

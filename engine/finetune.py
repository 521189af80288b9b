"""Fine-tuning: encoders and a linear classifier trained together on labels (paper section 4.3).

The encoders are pretrained (Tables 2, 4 and 7) or, for supervised training, random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dataset.batches import prefetch

from .checkpoint import RollingCheckpoint
from .classifier import ClassifierTraining
from .features import random_crops
from .log import step_bar
from .optimization import sync_interval
from .randomness import DROPOUT, seed_globally
from .signals import StopRequest

FINETUNE_FILE = "finetune_last.pth.tar"


class FineTuning(ClassifierTraining):
    """The training of encoders and classifier. A stop ends it after any step."""

    kind, file = "fine-tuning", FINETUNE_FILE
    keep_optimizer = False  # the state of Adam is two thirds of the file

    def trained_module(self) -> nn.Module:
        """Return encoders and classifier."""
        return nn.ModuleDict({"encoders": self.run.extractor.encoders, "head": self.head})

    def train_epoch(self, stop: StopRequest, rolling: RollingCheckpoint) -> float:
        """Train until the end of the epoch or until a stop is requested; returns the mean loss.

        Whatever makes the host wait for a GPU (is the loss finite, is a stop requested) runs once per
        ``sync_interval`` steps.
        """
        run, extractor, epoch = self.run, self.run.extractor, self.epoch
        num_frames = extractor.encoders.num_frames
        batches, make_view = random_crops(run.train, self.args.batch_size, num_frames, run.seed, epoch)
        total, count = torch.zeros((), device=extractor.device), 0
        sync_every = sync_interval(extractor.device)
        self.module.train()
        with step_bar(epoch, len(batches), self.step) as bar:
            for view in prefetch(make_view, range(self.step, len(batches)), extractor.workers):
                index = batches[self.step]
                seed_globally(run.seed, DROPOUT, epoch, self.step)
                labels = run.train.labels[index].to(extractor.device, non_blocking=True)
                loss = F.cross_entropy(self.head(extractor.features(view)), labels)
                self.optimizer.step(loss, self.step)
                total += loss.detach() * len(index)
                count += len(index)
                self.step += 1
                bar.update()
                if self.step % sync_every and self.step < len(batches) and not stop.requested:
                    continue
                self.optimizer.check(epoch, run.train, batches, run.folder, self.state)
                if self.step < len(batches):
                    rolling.save_if_due(self.state)
                if stop.requested:
                    break
        if self.step == len(batches):
            self.step = 0
        return total.item() / max(count, 1)

    @torch.no_grad()
    def val_logits(self) -> Tensor:
        """Return the logits ``(N, C)`` of the validation clips, in evaluation mode."""
        self.module.eval()
        return self.head(self.run.extractor.center_crop_features(self.run.val, "validation features"))

"""Inter-skeleton contrastive pretraining.

Sequence and graph on NTU-60 cross-view, as in the paper (section 3.3):

    python main_moco_inter_skeleton.py --lr 0.01 --batch-size 64 --mlp --moco-t 0.07 \\
        --moco-k 16384 --schedule 351 --epochs 451 --pre-dataset ntu60 --protocol cross_view \\
        --skeleton-representation seq-based_and_graph-based \\
        --checkpoint-path ./checkpoints/ntu_60_cross_view/interskeleton_seq_based_graph_based

The queries of each representation are contrasted with the keys of every other one. All visible GPUs
are used. On SIGTERM, SIGINT (Ctrl-C), SIGHUP or SIGUSR1 the run finishes the current step, saves and
exits with code 75; the same command with --resume auto continues it.
"""

import argparse
from contextlib import nullcontext

from dataset.clips import open_clips
from dataset.views import pretraining_view
from engine.device import check_modes, describe, in_precision, parallel, pick_device, place_clips, use_tf32
from engine.diagnostics import identical_views_note
from engine.distributed import process_group
from engine.encoders import contrast_title
from engine.log import RunLog, config_text
from engine.optimization import GuardedOptimizer, pretraining_optimizer, schedule_note
from engine.pretrain import Pretraining, build_model, build_objectives, compile_errors, train
from engine.randomness import choose_seed
from engine.resume import check_same_run, describe_run, initialize, locked_run, resume_point
from models.registry import parse_representations
from options.defaults import checkpoint_folder, complete_pretraining, flag_defaults
from options.flags import pretraining_parser
from utils.errors import UserError, run_script
from visual.clips import log_views


def pretrain(args: argparse.Namespace) -> int:
    """Pretrain with the parsed flags; returns the exit code. Both pretraining scripts call it."""
    with process_group() as group:
        device = pick_device(args.gpu)
        check_modes(args, device, group)
        use_tf32(args.tf32 == "on")

        representations = parse_representations(args.skeleton_representation, args.stream)
        clips = open_clips(args.data_root, args.dataset, args.protocol, "train")
        if args.monitor_knn and not clips.has_labels:
            raise UserError("--monitor-knn needs labels, but the clips have none; omit it")
        folder = checkpoint_folder(args, representations)
        point = resume_point(args.resume, folder, group)
        seed = group.first(choose_seed(args.seed, point.flags.get("seed")))
        args, notes = complete_pretraining(args, representations, clips, seed, point.flags)
        description = describe_run(args, representations, clips)
        check_same_run(point, description, flag_defaults(args), clips)
        view = pretraining_view(vars(args), args.num_frames, clips.skeleton)
        objectives = build_objectives(args, representations)
        model = build_model(args, representations, objectives, clips.skeleton, group)
        if point.content is None:
            initialize(model, args.init, clips.skeleton)

        with locked_run(folder, point, group):
            (clips,) = place_clips([clips], args.data_device, device)
            model = model.to(device)
            encode = parallel(in_precision(model.encoders, args.amp, device), device, args.gpu, group)
            # The key encoders are not optimized; they follow by their momentum update.
            optimizer = pretraining_optimizer(model.encoders.query, args)
            optimizer = GuardedOptimizer(optimizer, args.amp, device)
            run = Pretraining(args, model, encode, optimizer, clips, view, description, device, group)
            run.restore(point)
            notes += schedule_note(args, point.flags, run.epoch) + identical_views_note(clips, args)

            print(
                f"{contrast_title(args.pairs)} contrast of {args.skeleton_representation} on {args.dataset} "
                f"{args.protocol}: {len(clips)} clips from {clips.source}, "
                f"{describe(device, args.gpu, group)}; {'MLP' if args.mlp else 'linear'} head, embedding "
                f"dimension {args.moco_dim}"
            )
            print(*notes, config_text(args), sep="\n")
            with RunLog(folder, args, run.epoch) if group.is_main else nullcontext() as log:
                if log is not None and point.content is None:
                    log_views(log, clips, view, args.seed)
                with compile_errors():
                    return train(run, log)


def main() -> int:
    """Parse the flags and pretrain; returns the exit code."""
    args = pretraining_parser(__doc__, "inter").parse_args()
    if len(parse_representations(args.skeleton_representation, args.stream)) < 2:
        raise UserError(
            f"--skeleton-representation {args.skeleton_representation}: inter-skeleton contrast needs "
            "at least two representations; for one, use main_moco_intra_skeleton.py"
        )
    return pretrain(args)


if __name__ == "__main__":
    run_script(main, memory_flags="--batch-size, --amp, --data-device")

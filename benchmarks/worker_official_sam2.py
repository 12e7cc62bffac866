"""The official video predictor, PyPI `sam2`, in its own environment: tracks a job's masks once, and says how long.

python -m benchmarks.worker_official_sam2 JOB.pt ANSWER.pt
"""

import sys
import time
from pathlib import Path

import sam2.sam2_video_predictor as predictor_module
import torch
from sam2.build_sam import build_sam2_video_predictor


def main(job_path: Path, answer_path: Path) -> None:
    job = torch.load(job_path, weights_only=True)
    torch.set_num_threads(job["num_threads"])
    frames, masks = job["frames"], job["masks"]
    height, width = masks.shape[1:]
    predictor_module.load_video_frames = lambda **_: (frames, height, width)
    decoder = "++model.sam_mask_decoder_extra_args"
    model = build_sam2_video_predictor(
        job["config"],
        device="cpu",
        hydra_overrides_extra=[
            f"++model.image_size={frames.shape[-1]}",
            f"{decoder}.dynamic_multimask_via_stability=true",
            f"{decoder}.dynamic_multimask_stability_delta=0.05",
            f"{decoder}.dynamic_multimask_stability_thresh=0.98",
            "++model.binarize_mask_from_pts_for_mem_enc=true",
        ],
        apply_postprocessing=False,  # it would fill holes with a CUDA extension
    )
    model.load_state_dict(job["state"], strict=True)
    started, cpu_started = time.perf_counter(), time.process_time()
    state = model.init_state("clip")
    for object_id, mask in enumerate(masks):
        model.add_new_mask(state, 0, object_id, mask)
    logits = [found[:, 0].clone() for _, _, found in model.propagate_in_video(state)]
    answer = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
    torch.save({**answer, "logits": torch.stack(logits)}, answer_path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

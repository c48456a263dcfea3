"""The command line: train, score, eval, live, demo, study, bench, doctor."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

from . import __version__
from .checkpoint import CheckpointError
from .config import Config
from .data import DataError, Sample, colour_channels, find_categories, find_samples, read_image
from .detector import Detector
from .execution import Execution, Precision
from .methods import PRESETS, preset
from .metrics.evaluation import EXACT_PIXELS, NAMES, Evaluation
from .noise import KINDS, NOISE_VERSION
from .outputs import RunWriter, score_samples
from .realtime import RealtimeScorer, fallbacks
from .saved import load
from .study import EXPERIMENTS, NOISES, Study
from .study import run as run_study

DONE, FAILED, USAGE, PARTLY = 0, 1, 2, 3
_JSON = "print one JSON object on standard output and nothing else there"


class UsageError(Exception):
    """Settings that cannot be."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 usage, 3 partly done."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UsageError as error:
        print(f"diffnoise: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(
            f"diffnoise: {error.filename or 'A file'} cannot be used ({error.strerror}); check the path, its permissions and the free space.",
            file=sys.stderr,
        )
        return FAILED
    except (DataError, CheckpointError, ValueError, RuntimeError) as error:
        print(f"diffnoise: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("diffnoise: stopped; what was written so far is complete.", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="diffnoise", description="Diffusion-based image anomaly detection.")
    parser.add_argument("--version", action="version", version=f"diffnoise {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a detector on good images")
    train.add_argument(
        "data",
        metavar="DATA",
        help="category folder (MVTec AD, BTAD, VisA, BrainMRI), plain folder of good images, or CSV manifest",
    )
    train.add_argument(
        "--output", metavar="RUN", required=True, help="folder for the detector, its checkpoint and its log"
    )
    train.add_argument(
        "--preset", default="small", metavar="NAME", help=f"one of {', '.join(PRESETS)} (default: small)"
    )
    train.add_argument("--config", metavar="FILE", help="JSON file with sections that change the preset's settings")
    train.add_argument("--image-size", type=int, metavar="N", help="side of the frames in pixels (default: 128)")
    train.add_argument("--framing", choices=("resize", "crop", "tile"), help="how images become frames of that size")
    train.add_argument(
        "--channels", type=int, metavar="C", help="1 for grey, 3 for colour (default: as the images are)"
    )
    train.add_argument("--noise", metavar="KIND", help="gaussian, simplex, tsimplex, gmm, tsg or kts")
    train.add_argument(
        "--augment", metavar="LIST", help='such as "hflip,rotate=10,shift=0.05"; only what keeps good images good'
    )
    train.add_argument("--batch-size", type=int, metavar="N")
    train.add_argument(
        "--max-minutes", type=float, metavar="M", help="time for the training steps (default: 15, unless --max-steps)"
    )
    train.add_argument("--max-steps", type=int, metavar="N", help="end after so many steps, or at --max-minutes")
    train.add_argument("--seed", type=int, metavar="N")
    train.add_argument("--resume", action="store_true", help="continue from RUN's checkpoint, if there is one")
    _common(train)
    train.set_defaults(run=_train)

    score = commands.add_parser("score", help="score images: a table, float maps, overlays and a report")
    score.add_argument("detector", metavar="RUN", help="folder of a trained detector")
    score.add_argument("paths", metavar="PATH", nargs="+", help="images, folders, category folders or CSV manifests")
    score.add_argument("--output", metavar="DIR", required=True)
    score.add_argument("--overwrite", action="store_true", help="replace an earlier run in DIR")
    _execution(score)
    _common(score)
    score.set_defaults(run=_score)

    evaluation = commands.add_parser("eval", help="score the test images of a category and measure how well")
    evaluation.add_argument("detector", metavar="RUN", help="folder of a trained detector")
    evaluation.add_argument(
        "data", metavar="DATA", help="category folder (MVTec AD, BTAD, VisA, BrainMRI), or CSV manifest"
    )
    evaluation.add_argument("--output", metavar="DIR", help="also write the table, maps, overlays and report there")
    evaluation.add_argument("--overwrite", action="store_true", help="replace an earlier run in DIR")
    _execution(evaluation)
    _common(evaluation)
    evaluation.set_defaults(run=_eval)

    live = commands.add_parser(
        "live", help="score the frames of a folder, video or camera as they come, and draw their maps over them"
    )
    live.add_argument("detector", metavar="RUN", help="folder of a trained detector")
    live.add_argument("source", metavar="SOURCE", help="folder, image, CSV manifest, video, camera number or stream")
    live.add_argument("--deadline-ms", type=float, metavar="MS", help="after which a result is late")
    live.add_argument(
        "--good", metavar="DATA", help="good images that RUN was not trained on: take less effort where MS needs it"
    )
    live.add_argument("--output", metavar="DIR|VIDEO", help="folder or .mp4, .avi or .mkv file for the drawn frames")
    live.add_argument("--overwrite", action="store_true", help="replace an earlier run there")
    live.add_argument("--window", action="store_true", help="show the drawn frames until q is pressed")
    live.add_argument("--frames", type=_positive, metavar="N", help="end after so many frames")
    _execution(live)
    _common(live)
    live.set_defaults(run=_live)

    demo = commands.add_parser(
        "demo", help="score the photographs that come with the package, with the detector that comes with it"
    )
    demo.add_argument("--output", metavar="DIR", default="runs/demo")
    _common(demo)
    demo.set_defaults(run=_demo)

    study = commands.add_parser(
        "study",
        help="rerun the papers' tables and figures on DATA; without DATA, draw what the noises are like",
    )
    study.add_argument("data", metavar="DATA", nargs="?", help="category folder in MVTec layout, or CSV manifest")
    study.add_argument("--output", metavar="DIR", required=True, help="folder for trainings, tables, pictures and page")
    study.add_argument(
        "--experiments",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join([*EXPERIMENTS, NOISES])} (default: all; without DATA: {NOISES})",
    )
    study.add_argument("--preset", default="small", metavar="NAME", help="as for train (default: small)")
    study.add_argument("--config", metavar="FILE", help="JSON file with sections that change the preset's settings")
    study.add_argument("--max-minutes", type=float, metavar="M", help="time for each training (default: the preset's)")
    study.add_argument(
        "--reverse-steps",
        type=_positive,
        default=10,
        metavar="N",
        help="most network calls for an image and noise scale; the papers take up to 500 (default: 10)",
    )
    study.add_argument("--limit", type=_positive, metavar="N", help="test images, spread evenly (default: all)")
    study.add_argument(
        "--seed", type=int, metavar="N", help="of trainings and scores, and of the first noise (default: 0)"
    )
    study.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="noises (default: all)")
    study.add_argument("--size", type=int, default=256, metavar="N", help="side of the noises in pixels (default: 256)")
    study.add_argument("--samples", type=int, default=60, metavar="N", help="noises for each setting (default: 60)")
    _common(study)
    study.set_defaults(run=_study)

    bench = commands.add_parser(
        "bench", help="time every op beside its peers and the limits of this machine, all in one run"
    )
    bench.add_argument("names", metavar="NAME", nargs="*", help="a case, or an op with all its cases (default: all)")
    bench.add_argument("--list", action="store_true", help="print the names of the cases and end")
    bench.add_argument("--quick", action="store_true", help="less time for each, and nothing compiled")
    bench.add_argument(
        "--threads", type=_positive, nargs="+", metavar="N", help="numbers of CPU threads (default: 1, 2 and all cores)"
    )
    bench.add_argument(
        "--isa",
        nargs="+",
        choices=("best", "avx2", "baseline"),
        default=["best", "avx2"],
        help="CPU instruction sets; lower ones with the first number of threads only (default: best avx2)",
    )
    bench.add_argument("--output", metavar="FILE", help="JSON file that holds all results so far at any time")
    bench.add_argument("--device", choices=("cpu", "cuda"), help="default: both, where there is a GPU")
    bench.add_argument("--json", action="store_true", help=_JSON)
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="which kernels are loaded, why not the others, and a self-test")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)
    return parser


def _execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--category", metavar="NAME", help="of the images, for a detector that was trained on several")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="of the network; float16 and bfloat16 are faster where the machine has them and change scores by rounding (default: float32)",
    )
    parser.add_argument(
        "--batch",
        type=_positive,
        metavar="N",
        help="frames that go through the network together, on all cores (default: each alone, the same score to the last bit in any company)",
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--json", action="store_true", help=_JSON)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def _train(options: argparse.Namespace) -> int:
    categories = find_categories(options.data)
    samples = [
        sample for source in (categories or {"": options.data}).values() for sample in find_samples(source, "train")
    ]
    channels = options.channels or max(colour_channels(sample.path) for sample in samples)
    try:
        config = _config(options, channels, len(categories))
        detector = Detector.from_config(config, options.device, channels)
    except CheckpointError:
        raise
    except ValueError as error:
        raise UsageError(error) from None
    _log(f"{len(samples)} good images, {channels} channel(s), {_parameters(detector)}, on {detector.device}")
    if (largest := max(detector.guidance_weights.values())) > 1:
        _log(
            f"the guidance overshoots its target: the share of the target in x_0 is {largest:.2f} at the largest noise scale"
        )
    limits = ((config.training.max_minutes, "minutes"), (config.training.max_steps, "steps"))
    until = " or ".join(f"{limit:g} {unit}" for limit, unit in limits if limit is not None)
    _log(f"training for at most {until}; then the threshold is set from the images kept out")
    data = categories or options.data
    detector.fit(data, config.training, folder=options.output, resume=options.resume, progress=True)
    calibrations = [each.calibration for each in map(detector.of, categories)] or [detector.calibration]
    thresholds = [calibration.image_threshold for calibration in calibrations if calibration]
    rate, kept_out = detector.scoring.false_alarm_rate, min(each.good_images for each in calibrations if each)
    if kept_out < 1 / rate - 1:
        needed = math.ceil(1 / rate - 1)
        _log(
            f"The threshold comes from only {kept_out} good images; {needed} are needed to promise {rate:.0%} false alarms. Give more good images."
        )
    summary = {
        "detector": str(Path(options.output)),
        "steps": detector.provenance["steps"],
        "seconds": detector.provenance["seconds"],
        "threshold": dict(zip(categories, thresholds, strict=True)) if categories else thresholds[0],
        "good_images_kept_out": kept_out,
    }
    if detector.scoring.guidance:
        summary["guidance_weights"] = detector.guidance_weights
    _show(summary, options.json)
    return DONE


def _config(options: argparse.Namespace, channels: int, categories: int) -> Config:
    """The preset with the changes of the configuration file, and then those of the options."""
    config = preset(options.preset)
    if options.config:
        config = config.updated(Config.read(options.config))
    changes: dict[str, dict[str, Any]] = {
        "model": {},
        "framing": {},
        "training": {},
        "scoring": {},
    }
    if config.codec.kind == "pixels":
        changes["model"]["image_channels"] = channels
    if categories and config.model.num_classes is None:
        changes["model"]["num_classes"] = categories
    limits = {"max_minutes": options.max_minutes, "max_steps": options.max_steps}
    if any(value is not None for value in limits.values()):
        changes["training"] |= limits
    for section, key, value in (
        ("framing", "size", options.image_size),
        ("framing", "mode", options.framing),
        ("training", "augment", options.augment),
        ("training", "batch_size", options.batch_size),
        ("training", "seed", options.seed),
        ("scoring", "seed", options.seed),
    ):
        if value is not None:
            changes[section][key] = value
    return config.updated(changes | ({"noise": {"kind": options.noise}} if options.noise else {}))


def _load(options: argparse.Namespace) -> Detector:
    detector = load(options.detector, device=options.device, execution=Execution(options.precision, options.batch))
    return detector.of(options.category) if options.category else detector


def _score(options: argparse.Namespace) -> int:
    samples = [sample for path in options.paths for sample in find_samples(path)]
    detector = _load(options)
    with RunWriter(options.output, detector, title="Anomaly scores", overwrite=options.overwrite) as writer:
        for done, scored in enumerate(score_samples(detector, samples), start=1):
            writer.add(scored)
            _progress(done, len(samples))
    _show({"images": len(samples), "failed": writer.failures, "output": str(writer.folder)}, options.json)
    return _outcome(writer.failures, len(samples))


def _eval(options: argparse.Namespace) -> int:
    detector = _load(options)
    if detector.category is None and Path(options.data).name in detector.categories:
        detector = detector.of(Path(options.data).name)
    metrics, failures = _evaluate(
        detector,
        find_samples(options.data, "test"),
        options.output,
        f"Evaluation on {Path(options.data).name}",
        options.overwrite,
    )
    _show(metrics, options.json)
    return _outcome(failures, metrics["images"])


def _live(options: argparse.Namespace) -> int:
    from . import live

    if options.deadline_ms is not None and not options.deadline_ms > 0:
        raise UsageError("--deadline-ms must be positive.")
    if options.good and options.deadline_ms is None:
        raise UsageError("--good serves a deadline; add --deadline-ms.")
    detector = _load(options)
    lighter: list[Detector] = []
    if options.good:
        good = [read_image(sample.path, detector.channels) for sample in find_samples(options.good, "train")]
        _log(f"setting the thresholds for less effort from {len(good)} good images")
        lighter = fallbacks(detector, good)
    found = live.run(
        RealtimeScorer(detector, options.deadline_ms, fallbacks=lighter),
        options.source,
        options.output,
        window=options.window,
        limit=options.frames,
        overwrite=options.overwrite,
    )
    latencies = {f"{name}_ms": value for name, value in found["latency_ms"].items()}
    shown = found if options.json else latencies | {key: found[key] for key in live.SHOWN}
    _show(shown | {"output": options.output}, options.json)
    return _outcome(found["errors"], found["images"])


def _demo(options: argparse.Namespace) -> int:
    from . import demo

    folder = Path(options.output)
    data = folder / "data"
    if not data.exists():
        _log(f"drawing the demo's test images into {data}")
        unfinished = folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        demo.build(unfinished).rename(data)
    detector = load(demo.DETECTOR, device=options.device)
    metrics, failures = _evaluate(detector, find_samples(data, "test"), folder, "diffnoise demo", overwrite=True)
    _show(metrics | {"report": str(folder / "report.html")}, options.json)
    return _outcome(failures, metrics["images"])


def _evaluate(
    detector: Detector, samples: list[Sample], output: str | Path | None, title: str, overwrite: bool
) -> tuple[dict[str, Any], int]:
    """Metrics over all samples that could be scored, and the number of those that could not."""
    if any(sample.label is None for sample in samples):
        raise DataError(
            "An evaluation needs labelled images: a category folder with test/good and test/<defect>, or a manifest with label_index."
        )
    evaluation, evaluating, failures = Evaluation(EXACT_PIXELS), 0.0, 0
    started = time.perf_counter()
    with RunWriter(output, detector, title, overwrite) if output else nullcontext() as writer:
        for done, scored in enumerate(score_samples(detector, samples), start=1):
            if writer:
                writer.add(scored)
            result, label = scored.result, scored.sample.label or 0
            if result.pred_score is None or result.anomaly_map is None or result.pred_mask is None:
                failures += 1
                _log(result.error)
            else:
                began = time.perf_counter()
                evaluation.add(result.pred_score, label, result.anomaly_map[0], scored.mask, result.pred_mask[0])
                evaluating += time.perf_counter() - began
            _progress(done, len(samples))
        # Reading, scoring and, where asked for, writing.
        fps = len(samples) / (time.perf_counter() - started - evaluating)
        metrics: dict[str, Any] = dict(evaluation.result()) if failures < len(samples) else {}
        if not evaluation.exact:
            _log(
                f"more than {EXACT_PIXELS} pixels: the pixel metrics come from a histogram and may differ by some 1e-6"
            )
        if writer:
            writer.metrics = {name: metrics[name] for name in NAMES if name in metrics}
    return metrics | {"fps": round(fps, 3), "images": len(samples), "failed": failures}, failures


def _bench(options: argparse.Namespace) -> int:
    from . import bench

    if options.list:
        print(bench.listing())
        return DONE
    try:
        cases, devices = bench.chosen(options.names), bench.devices(options.device)
    except ValueError as error:
        raise UsageError(error) from None
    return bench.run(
        cases,
        devices,
        options.threads or bench.default_threads(),
        bench.levels(options.isa),
        quick=options.quick,
        output=options.output,
        as_json=options.json,
    )


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main(options.json)


def _study(options: argparse.Namespace) -> int:
    from .study import noises, results
    from .study.noises import report

    known = [*EXPERIMENTS, NOISES]
    names = list(dict.fromkeys(options.experiments or (known if options.data else [NOISES])))
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"Unknown experiment {', '.join(unknown)}; choose from {', '.join(known)}.")
    if options.data is None and names != [NOISES]:
        raise UsageError(f"The experiments but {NOISES} need DATA, a category folder in MVTec layout.")
    folder, seed = Path(options.output), options.seed or 0
    try:
        noises.check(options.kinds, options.size, options.samples, seed)
        study = _new_study(options) if options.data else None
    except DataError:
        raise
    except ValueError as error:
        raise UsageError(error) from None
    rows, trainings, found = {}, {}, None
    if study is not None:
        rows, trainings = run_study(study, [EXPERIMENTS[name] for name in names if name != NOISES], _log)
    if NOISES in names:
        place = folder if study is None else folder / NOISES
        found = report.write(place, options.kinds, options.size, options.samples, seed, again=study is None)
    settings = found[0]["settings"] if found else []
    for row in settings:
        if "error" in row:
            _log(f"{row['kind']}, {row['parameter']} {row['value']}: {row['error']}")
    errors = [row.get("error", "") for row in settings] + [row.error for each in rows.values() for row in each]
    failed = sum(map(bool, errors))
    summary = {"settings": len(errors), "failed": failed, "output": str(folder)}
    if study is not None:
        summary["page"] = str(results.write(study, rows, trainings, found))
    _show(summary, options.json)
    return _outcome(failed, len(errors))


def _new_study(options: argparse.Namespace) -> Study:
    changes = [Config.read(options.config)] if options.config else []
    if options.max_minutes is not None:
        changes.append({"training": {"max_minutes": options.max_minutes, "max_steps": None}})
    if options.seed is not None:
        changes.append({section: {"seed": options.seed} for section in ("training", "scoring")})
    study = Study(
        Path(options.data), Path(options.output), options.preset, changes, options.limit, options.reverse_steps, options.device
    )  # fmt: skip
    study.check()
    return study


def _outcome(failures: int, images: int) -> int:
    if failures == 0:
        return DONE
    return FAILED if failures == images else PARTLY


def _parameters(detector: Detector) -> str:
    return f"{sum(p.numel() for p in detector.model.parameters()) / 1e6:.2f} million parameters"


def _show(values: dict[str, Any], as_json: bool) -> None:
    values = values | {"noise_version": NOISE_VERSION}
    if as_json:
        print(json.dumps(values))
        return
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() or done == total or done % 50 == 0:
        print(
            f"\rscored {done} of {total}",
            end="\n" if done == total or not sys.stderr.isatty() else "",
            file=sys.stderr,
            flush=True,
        )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

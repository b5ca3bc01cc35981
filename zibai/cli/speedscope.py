"""A profile as a file of speedscope, https://www.speedscope.app/file-format-schema.json: a profile for each worker.

Its type is ``sampled``. Equal stacks are one sample, whose weight is the time that they took together.
"""

from typing import Any, Final

SCHEMA: Final = "https://www.speedscope.app/file-format-schema.json"


def describe(name: str, workers: dict[int, dict[str, Any]], version: str) -> dict[str, Any]:
    """The file as plain values. ``workers`` has the profile of each (:mod:`zibai.server.sampling`), by process id."""
    frames: list[dict[str, Any]] = []
    numbers: dict[tuple[Any, ...], int] = {}
    profiles = []
    for pid, found in workers.items():
        own = []  # the number among the frames of all workers, for each frame of this one
        for each in found["frames"]:
            called, file, line = each[:3]
            key = (called, file, line)
            if key not in numbers:
                numbers[key] = len(frames)
                frames.append({"name": called, "file": file, "line": max(1, line)})
            own.append(numbers[key])
        profiles.append(_profile(pid, found, own))
    return {
        "$schema": SCHEMA,
        "name": name,
        "exporter": f"zibai {version}",
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        "profiles": profiles,
    }


def _profile(pid: int, found: dict[str, Any], own: list[int]) -> dict[str, Any]:
    each = found["seconds"] / max(1, found["looks"])
    samples = [[own[number] for number in stack] for stack, _, _ in found["stacks"]]
    weights = [times * each for _, times, _ in found["stacks"]]
    return {
        "type": "sampled",
        "name": f"worker {pid}",
        "unit": "seconds",
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }

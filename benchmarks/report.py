"""The table that a person reads."""

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.result import Result
from benchmarks.timing import ratios


def show(result: Result, console: Console) -> None:
    """Print times and ratios of one line, and below them what was measured beside it."""
    table = Table(title=result.title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for heading in ("median s", "images/s", "time / ours", "of a round"):
        table.add_column(heading, justify="right")
    for name, ratio in ratios(result.seconds, result.base).items():
        seconds = median(result.seconds[name])
        rate = f"{result.images / seconds:.1f}" if result.images else ""
        spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
        table.add_row(name, f"{seconds:.3f}", rate, f"{ratio.median:.2f}", spread)
    console.print(table)
    for line in notes(result):
        console.print(line, highlight=False, markup=False)
    console.print()


def notes(result: Result) -> list[str]:
    """The lines below a table."""
    found = [
        f"{name} left out, it did different work: {why}" for name, why in result.refused.items()
    ]
    details = result.details
    if "accuracies" in details:
        percent = {
            name: " ".join(f"{100 * each:.1f}" for each in row)
            for name, row in details["accuracies"].items()
        }
        found.append(f"accuracy, {' '.join(details['columns'])}:")
        found += [f"  {row}  {name}" for name, row in percent.items()]
    if "limit" in details:
        found += _reached(details["limit"])
    if "profile" in details:
        parts = [f"{name} {100 * share:.0f}%" for name, share in details["profile"].items()]
        found.append(f"ours by operation: {', '.join(parts)}")
    found += [_growth(axis, measured) for axis, measured in details.get("growth", {}).items()]
    if "memory" in details:
        memory = details["memory"]
        taken = " and ".join(f"{mib:.1f} MiB" for mib in memory["mib"])
        steps = " and ".join(str(each) for each in memory["steps"])
        found.append(f"peak memory of {steps} steps: {taken}, ratio {memory['ratio']:.3f}")
    return found


def _reached(limit: dict[str, Any]) -> list[str]:
    return [
        f"ours: {limit['gflops']:.1f} GFLOP/s of convolutions, {100 * limit['share']:.0f}% of the "
        f"{limit['best_gflops']:.1f} that the same convolutions reach alone",
        f"were attacks nothing but their convolutions, {limit['fastest_peer']} would take "
        f"{limit['ceiling']:.2f} times as long",
    ]


def _growth(axis: str, measured: dict[str, Any]) -> str:
    sizes = ", ".join(f"{each:.4g}" for each in measured["sizes"])
    seconds = ", ".join(f"{each:.3f}" for each in measured["seconds"])
    unit = " (FLOP of a forward)" if axis == "width" else ""
    return f"{axis}{unit} {sizes}: {seconds} s, exponent {measured['exponent']:.2f}"

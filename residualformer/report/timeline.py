"""The picture of one utterance: its sound, its words, the branches or depths that models chose, and their backlog.

All panels share one axis of time. A choice of an AmNet is for a frame, that of a Transformer for a chunk of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from residualformer.constants import FRAME_SHIFT_S
from residualformer.report.amnet import Device
from residualformer.report.plots import save
from residualformer.words.words import Word

# Okabe and Ito's colors, which differ for the color-blind; line styles tell them apart in gray.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
STYLES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
LINE_CHARACTERS = 140  # of small print that fit the width of a panel


class Track(NamedTuple):
    """What a model chose on an utterance of T steps: the branch of each frame, or the depth of each chunk."""

    name: str
    decisions: np.ndarray  # (T,) branches or depths, by number: 0 is the most work
    device: Device
    loops: Sequence[int] = ()  # of depths: the layers of each group that are run; empty for branches

    @property
    def edges_s(self) -> np.ndarray:
        """Seconds (T + 1,) at which steps begin, and the end of the last."""
        return np.arange(len(self.decisions) + 1) * self.device.step_s

    @property
    def heights(self) -> np.ndarray:
        """How high each branch or depth (B,) is drawn: more is more work."""
        return np.array(self.loops) if self.loops else np.arange(len(self.device.per_branch), 0, -1)

    @property
    def names(self) -> list[str]:
        """The name of each branch or depth (B,)."""
        if self.loops:
            return [f"{loops} loops" if loops > 1 else "1 loop" for loops in self.loops]
        return ["slow", *(f"branch {number}" for number in range(1, len(self.heights) - 1)), "fast"]


class Heard(NamedTuple):
    """What is known of the utterance itself."""

    features: np.ndarray | None = None  # (T, F) log-mel energies, a row each `FRAME_SHIFT_S`
    words: Sequence[Word] = ()
    recognizer: str = ""  # the model whose words these are


def draw_timeline(title: str, heard: Heard, tracks: Sequence[Track], picture: Path) -> None:
    """Draw one utterance and what each of `tracks` (1 or more) did on it; sound and words where they are known.

    The backlog (AmNets, eq. 7 and figure 2) at the last step is the latency; then it is worked off.
    """
    backlogs_s = [track.device.backlog_s(track.decisions) for track in tracks]
    ends_s = [track.edges_s[-1] for track in tracks]
    end_s = max(ends_s) if heard.features is None else len(heard.features) * FRAME_SHIFT_S
    done_s = max(end + left[-1] for end, left in zip(ends_s, backlogs_s, strict=True))
    shown_s = max(*ends_s, end_s, min(done_s, 1.25 * end_s))
    rows = text_rows(heard.words, shown_s / LINE_CHARACTERS)
    known = {"sound": 1.7 * (heard.features is not None), "words": 0.22 * len(set(rows))}
    heights = {name: inches for name, inches in known.items() if inches}  # of the panels, from the top
    heights |= {f"track {number}": 0.35 + 0.1 * len(track.heights) for number, track in enumerate(tracks)}
    heights["backlog"] = 2.6
    figure, panels = plt.subplot_mosaic(
        [[name] for name in heights],
        sharex=True,
        figsize=(11, 0.8 + sum(heights.values()) + 0.25 * len(heights)),
        height_ratios=list(heights.values()),
        layout="constrained",
    )
    figure.suptitle(title)
    if heard.features is not None:
        _draw_sound(panels["sound"], heard.features)
    if rows:
        _draw_words(panels["words"], heard, rows)
    for number, track in enumerate(tracks):
        _draw_choices(panels[f"track {number}"], track, COLORS[number % len(COLORS)])
    _draw_backlogs(panels["backlog"], tracks, backlogs_s)
    panels["backlog"].axvline(end_s, color="0.4", linewidth=0.8, zorder=0)
    panels["backlog"].set(xlim=(0, shown_s), xlabel="time, seconds (vertical line: the end of the audio)")
    for panel in panels.values():
        panel.label_outer()
    save(figure, picture)


def text_rows(words: Sequence[Word], character_s: float) -> list[int]:
    """Return the row of each word: the first where its text, centered on its time, overlaps no other."""
    rows: list[int] = []
    ends: list[float] = []  # of each row so far
    for word in words:
        middle, width = (word.start + word.end) / 2, max(word.end - word.start, len(word.word) * character_s)
        row = next((row for row, end in enumerate(ends) if end <= middle - width / 2), len(ends))
        ends[row : row + 1] = [middle + width / 2]
        rows.append(row)
    return rows


def _say(axis: Axes, text: str) -> None:
    """Write what a panel shows above it."""
    axis.set_title(text, loc="left", fontsize="small", pad=3)


def _draw_sound(axis: Axes, features: np.ndarray) -> None:
    """Draw features (T, F) as a spectrogram."""
    extent = (0, len(features) * FRAME_SHIFT_S, 0, features.shape[1])
    floor = np.percentile(features, 20)  # quieter is white
    axis.imshow(features.T, origin="lower", aspect="auto", extent=extent, cmap="Greys", vmin=floor)
    axis.set(ylabel="mel band")
    _say(axis, "sound: dark is loud, low tones are at the bottom")


def _draw_words(axis: Axes, heard: Heard, rows: Sequence[int]) -> None:
    """Draw each word on a bar from its start to its end."""
    for word, row in zip(heard.words, rows, strict=True):
        axis.broken_barh([(word.start, word.end - word.start)], (row + 0.05, 0.9), color="0.88")
        middle = (word.start + word.end) / 2
        text = axis.text(middle, row + 0.5, word.word, ha="center", va="center", fontsize=8, parse_math=False)
        text.set_in_layout(False)  # no place is made for an endless word
    axis.set(ylim=(max(rows) + 1, 0), yticks=[])
    _say(axis, f"words, as {heard.recognizer} recognized them")


def _draw_choices(axis: Axes, track: Track, color: str) -> None:
    """Draw the branch or depth of each step as a bar, the higher the more work."""
    axis.stairs(track.heights[track.decisions], track.edges_s, fill=True, color=color)
    axis.set_yticks(track.heights, track.names, fontsize=7)
    axis.set_ylim(0, 1.1 * max(track.heights))
    axis.grid(alpha=0.4)
    taken = np.bincount(track.decisions, minlength=len(track.heights)) / len(track.decisions)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(track.names, taken, strict=True))
    chosen = "runs through its shared layers" if track.loops else "branch"
    _say(axis, f"{track.name}, {chosen} for each {1e3 * track.device.step_s:.0f} ms: {shares}")


def _draw_backlogs(axis: Axes, tracks: Sequence[Track], backlogs_s: Sequence[np.ndarray]) -> None:
    """Draw the backlogs (T,) that `tracks` leave in seconds, in their colors."""
    for number, (track, left_s) in enumerate(zip(tracks, backlogs_s, strict=True)):
        end_s = track.edges_s[-1]
        axis.plot(
            [*track.edges_s, end_s + left_s[-1]],
            1e3 * np.array([0, *left_s, 0]),
            color=COLORS[number % len(COLORS)],
            linestyle=STYLES[number % len(STYLES)],
            label=f"{track.name}: {1e3 * left_s[-1]:.0f} ms late at the end",
        )
    axis.set_ylabel("milliseconds")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.4)
    axis.legend(fontsize="small")
    _say(axis, "backlog: how long a simulated device still has to work on what it has heard so far")

"""Minimum cut of a network of capacities, by Dinic's algorithm.

Ref: E. A. Dinic, Algorithm for solution of a problem of maximum flow in networks with power
estimation, Soviet Math. Doklady 11, 1970.
"""

from collections import deque
from typing import Final

UNBOUNDED: Final = 1 << 62


class MinCut:
    """Integer capacities between numbered places; arcs are added, then the cut asked for."""

    def __init__(self, places: int) -> None:
        self._arcs: list[list[int]] = [[] for _ in range(places)]
        self._ends: list[int] = []
        self._room: list[int] = []

    def place(self) -> int:
        """A new place."""
        self._arcs.append([])
        return len(self._arcs) - 1

    def arc(self, start: int, end: int, capacity: int) -> None:
        """An arc from `start` to `end`."""
        for here, there, room in ((start, end, capacity), (end, start, 0)):
            self._arcs[here].append(len(self._ends))
            self._ends.append(there)
            self._room.append(room)

    def reached(self, source: int, sink: int) -> list[bool]:
        """By place: whether it lies on the source's side of the minimum cut that is nearest to
        the sink, so that what costs the same on both sides stays with the source."""
        while self._levels(source)[sink] >= 0:
            self._block(source, sink)
        # Backwards from the sink over arcs with room: what cannot reach it is the source's.
        toward = [False] * len(self._arcs)
        toward[sink] = True
        waiting = deque([sink])
        while waiting:
            here = waiting.popleft()
            for arc in self._arcs[here]:
                there = self._ends[arc]
                if not toward[there] and self._room[arc ^ 1] > 0:
                    toward[there] = True
                    waiting.append(there)
        return [not side for side in toward]

    def _levels(self, source: int) -> list[int]:
        levels = [-1] * len(self._arcs)
        levels[source] = 0
        waiting = deque([source])
        while waiting:
            here = waiting.popleft()
            for arc in self._arcs[here]:
                there = self._ends[arc]
                if self._room[arc] > 0 and levels[there] < 0:
                    levels[there] = levels[here] + 1
                    waiting.append(there)
        return levels

    def _block(self, source: int, sink: int) -> None:
        """Saturate every shortest path; paths are kept on a stack, since they can be long."""
        levels = self._levels(source)
        following = [0] * len(self._arcs)
        path: list[int] = []
        here = source
        while True:
            if here == sink:
                amount = min(self._room[arc] for arc in path)
                for arc in path:
                    self._room[arc] -= amount
                    self._room[arc ^ 1] += amount
                full = next(i for i, arc in enumerate(path) if self._room[arc] == 0)
                here = self._ends[path[full] ^ 1]
                del path[full:]
                continue
            arcs = self._arcs[here]
            while following[here] < len(arcs):
                arc = arcs[following[here]]
                there = self._ends[arc]
                if self._room[arc] > 0 and levels[there] == levels[here] + 1:
                    path.append(arc)
                    here = there
                    break
                following[here] += 1
            else:
                if here == source:
                    return
                levels[here] = -1
                here = self._ends[path.pop() ^ 1]

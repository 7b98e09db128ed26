"""Directed graphs of integers for the transaction checker: circles, and the shortest one through them.

Everything is iterative: a history of a million operations is a path of a million steps.
"""

from collections import deque
from collections.abc import Sequence

Edges = Sequence[Sequence[tuple[int, str]]]  # for each node: (to, what it means)


STARTS_MAX = 32  # from how many nodes of one component the shortest circle is looked for


def components(edges: Edges) -> list[list[int]]:
    """Strongly connected components of at least two nodes (Tarjan 1972), each sorted, by their first node."""
    met = [-1] * len(edges)  # when a node was first met
    low = [0] * len(edges)  # the earliest met that it is known to reach
    unfinished: list[int] = []  # nodes whose component is not known yet
    is_unfinished = bytearray(len(edges))
    found: list[list[int]] = []
    clock = 0
    for root in range(len(edges)):
        path = [(root, 0)] if met[root] < 0 else []  # node, and which of its edges is next
        while path:
            node, at = path.pop()
            if at == 0:
                met[node] = low[node] = clock
                clock += 1
                unfinished.append(node)
                is_unfinished[node] = True
            if at < len(edges[node]):
                path.append((node, at + 1))
                to = edges[node][at][0]
                if met[to] < 0:
                    path.append((to, 0))
                elif is_unfinished[to]:
                    low[node] = min(low[node], met[to])
                continue
            if path:
                parent = path[-1][0]
                low[parent] = min(low[parent], low[node])
            if low[node] == met[node]:
                start = len(unfinished) - 1
                while unfinished[start] != node:
                    start -= 1
                component = unfinished[start:]
                del unfinished[start:]
                for one in component:
                    is_unfinished[one] = False
                if len(component) > 1:
                    found.append(sorted(component))
    return sorted(found)


def shortest_circle(edges: Edges, component: Sequence[int], real: int) -> list[tuple[int, str]]:
    """The fewest nodes below `real` that lie on one circle, each with the meaning of the edge that leaves it.

    Nodes from `real` on only pass an order on; they cost nothing and are left out. Looked for from the first
    few nodes of the component: a longer one may be found where the shortest passes none of them.
    """
    inside = set(component)
    best: list[tuple[int, str]] = []
    for start in [node for node in component if node < real][:STARTS_MAX]:
        circle = _circle_from(edges, inside, real, start)
        if not best or len(circle) < len(best):
            best = circle
    return best


def _circle_from(edges: Edges, inside: set[int], real: int, start: int) -> list[tuple[int, str]]:
    """Breadth first with steps of cost 0 and 1, until the start is reached again."""
    came_from: dict[int, tuple[int, str]] = {}
    cost = {start: 0}
    waiting = deque([start])
    done: set[int] = set()
    while waiting:
        node = waiting.popleft()
        if node in done:
            continue
        done.add(node)
        for to, meaning in edges[node]:
            if to == start:
                return _path_back(came_from, node, meaning, start, real)
            step = int(to < real)
            if to in inside and cost[node] + step < cost.get(to, len(edges) + 1):
                cost[to] = cost[node] + step
                came_from[to] = (node, meaning)
                if step:
                    waiting.append(to)
                else:
                    waiting.appendleft(to)
    return []


def _path_back(
    came_from: dict[int, tuple[int, str]], node: int, meaning: str, start: int, real: int
) -> list[tuple[int, str]]:
    circle: list[tuple[int, str]] = []
    while True:
        if node < real:
            circle.append((node, meaning))
        if node == start:
            return circle[::-1]
        node, meaning = came_from[node]

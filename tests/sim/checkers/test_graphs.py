"""Circles in small random graphs, against reachability and distances of all pairs."""

import random
from itertools import product

from cluster.sim.checkers.graphs import components, shortest_circle

Graph = list[list[tuple[int, str]]]
FAR = 99


def draw(rng: random.Random) -> Graph:
    count = rng.randint(1, 9)
    pairs = sorted({(rng.randrange(count), rng.randrange(count)) for _ in range(rng.randint(0, 2 * count))})
    graph: Graph = [[] for _ in range(count)]
    for one, other in pairs:
        if one != other:
            graph[one].append((other, f"{one}>{other}"))
    for edges in graph:
        rng.shuffle(edges)
    return graph


def distances(graph: Graph, real: int) -> list[list[int]]:
    """How many nodes below `real` one walks into on the way, at least one edge long."""
    nodes = range(len(graph))
    far = [[FAR] * len(graph) for _ in nodes]
    for one in nodes:
        for other, _ in graph[one]:
            far[one][other] = int(other < real)
    for middle, one, other in product(nodes, nodes, nodes):
        far[one][other] = min(far[one][other], far[one][middle] + far[middle][other])
    return far


def test_components_are_the_nodes_that_reach_each_other() -> None:
    rng = random.Random("components")
    for _ in range(300):
        graph = draw(rng)
        far = distances(graph, 0)
        expected = {
            tuple(other for other in range(len(graph)) if far[one][other] < FAR and far[other][one] < FAR)
            for one in range(len(graph))
            if far[one][one] < FAR
        }
        assert components(graph) == sorted(map(list, expected))


def test_the_shortest_circle_is_one_and_none_is_shorter() -> None:
    rng = random.Random("shortest")
    seen = 0
    for _ in range(500):
        graph = draw(rng)
        real = rng.randint(1, len(graph))
        far = distances(graph, real)
        for component in components(graph):
            if component[0] >= real:
                continue
            circle = shortest_circle(graph, component, real)
            nodes = [node for node, _ in circle]
            seen += 1
            assert len(circle) == min(far[node][node] for node in component if node < real)
            assert len(set(nodes)) == len(nodes) and max(nodes) < real
            for (node, meaning), following in zip(circle, nodes[1:] + nodes[:1], strict=True):
                assert any(told == meaning for _, told in graph[node])
                assert far[node][following] == 1
    assert seen > 100


def test_a_circle_of_many_is_found_without_recursion() -> None:
    count = 5000
    graph = [[((node + 1) % count, "next")] for node in range(count)]
    assert components(graph) == [list(range(count))]
    chain: Graph = [[(node + 1, "next")] for node in range(count - 1)]
    assert components([*chain, []]) == []

"""The `azimuth` command: click for the words that come in, rich for those that go out, and nothing else.

    main      the commands, and how errors become one line
    views     tables and live views, out of plain data

What the commands do is in cluster/runtime (up, launcher, overview, demo, bench). Nothing here decides about
the cluster.
"""

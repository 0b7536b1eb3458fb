"""A job that only publishes: `python -m tests.integration.affinity_job URL FOLDER RUN WINDOWS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline.affinity.client import AffinityClient, Pace
from pipeline.affinity.http import HttpTransport
from pipeline.affinity.outbox import Outbox
from pipeline.affinity.shipping import EventShipper
from pipeline.runlog import EventLog
from tests.unit.affinity.publishing import make_publication

PATIENCE_S = 90.0


def main() -> None:
    url, folder, run, windows = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    log = EventLog(folder / run, 0)
    outbox = Outbox(folder / "outbox")  # both jobs of the test share it, as two arms of one experiment do
    client = AffinityClient(
        lambda: HttpTransport(url, timeout_s=5, retries=1),
        outbox,
        EventShipper(log.path, make_publication(run).run),
        pace=Pace(every_s=0.05, first_pause_s=0.05, longest_pause_s=0.5, flush_attempts=1_000_000),
    )
    for step in range(windows):
        client.publish(make_publication(run, step, seed=step))
        log.write("eval", step=step)
        time.sleep(0.05)
    log.close()
    print(f"published {run}", flush=True)
    assert client.close(PATIENCE_S), client.trouble
    assert not client.refused and not client.superseded


if __name__ == "__main__":
    main()

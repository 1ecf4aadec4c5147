"""Files of several pages: each page as a pair of its own."""

import dataclasses

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import page_count
from hkdnet_jax.inference.jobs import Collected, Job

PAGES = ("first", "all")


def expand(collected: Collected) -> Collected:
    """Makes a job of each page; jobs of files with one page stay as they are.

    Page 3 of 12 goes to NAME_03.SUFFIX.

    Args:
      collected: the jobs; one whose files have different numbers of pages becomes a
        problem.
    """
    jobs, problems = [], list(collected.problems)
    for job in collected.jobs:
        try:
            ir, vis = (page_count(path) for path in (job.pair.ir, job.pair.vis))
        except UserError:
            jobs.append(job)  # said when its turn comes
            continue
        if ir == vis:
            jobs += _pages(job, ir)
        else:
            problems.append(
                f"{job.pair.ir} has {ir} pages but {job.pair.vis} has {vis}: give "
                "files of the same number of pages, or drop --pages all"
            )
    return dataclasses.replace(collected, jobs=jobs, problems=problems)


def _pages(job: Job, count: int) -> list[Job]:
    if count == 1:
        return [job]
    width = len(str(count))
    return [
        Job(
            dataclasses.replace(job.pair, page=page),
            job.out.with_stem(f"{job.out.stem}_{page + 1:0{width}}"),
        )
        for page in range(count)
    ]

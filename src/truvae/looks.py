"""Further looks at complete pictures, and which way to take them.

A second picture with noise of its own would tell which estimate is best without a clean one. One
picture with Gaussian noise can be made into two: with w of the same distribution as the noise,
y + a w and y - w / a have independent noise. What is restored from the first is judged by the
second, up to a constant without bias (Oliveira, Lei and Tibshirani, arXiv:2111.09447).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from truvae.ranks import ALONE, Ranks
from truvae.refine import refine
from truvae.settings import Course

# a: the first picture has 12 % more noise, the second one 2.2 times as much as there was.
_MORE = 0.5
# Nearest patches that make a prior of one channel, how many more for each other one, and at most:
# the entries of patches in colour are more than the first few could span.
_NEAR, _MORE_NEAR, _MOST_NEAR = 32, 16, 64


class Looks:
    """Looks at frames, one after the other; none is taken twice.

    Parameters
    ----------
    images
        Noisy frames (F, R, C, K), finite.
    first
        The first estimate, same shape.
    sigma
        Standard deviation of the noise.
    go_on
        Asked again and again, with the number of looks taken so far, and the share of the present
        one; once it says False, the last estimate stands. It need not ask other ranks.
    ranks
        Processes that share the work.

    Examples
    --------
    >>> images = torch.randn(1, 12, 12, 1, generator=torch.Generator().manual_seed(0))
    >>> looks = Looks(images, torch.zeros_like(images), 1.0)
    >>> looks.along(((4, 3), (4, 5))).shape, looks.taken, looks.depth
    (torch.Size([1, 12, 12, 1]), 3, 2)
    """

    def __init__(
        self,
        images: Tensor,
        first: Tensor,
        sigma: float,
        go_on: Callable[[float], bool] = lambda taken: True,
        ranks: Ranks = ALONE,
    ) -> None:
        self._images, self._go_on, self._over = images, go_on, False
        n_near = min(_NEAR + _MORE_NEAR * (images.shape[3] - 1), _MOST_NEAR)
        self._look = partial(refine, sigma=sigma, n_near=n_near, ranks=ranks)
        self._done: dict[tuple[int, ...], Tensor] = {(): first}

    @property
    def taken(self) -> int:
        """Looks taken."""
        return len(self._done) - 1

    @property
    def depth(self) -> int:
        """The most looks one after the other."""
        return max(map(len, self._done))

    def along(self, course: Course) -> Tensor:
        """Return the estimate that a course leads to."""
        return torch.stack([self._after(sizes) for sizes in course]).mean(0)

    def _after(self, sizes: tuple[int, ...]) -> Tensor:
        if sizes not in self._done:
            before, taken = self._after(sizes[:-1]), self.taken
            if self._over:
                return before
            after = self._look(
                self._images, before, size=sizes[-1], go_on=lambda done: self._go_on(taken + done)
            )
            if after is before:  # it was broken off, on any rank
                self._over = True
                return before
            self._done[sizes] = after
        return self._done[sizes]


def count(courses: Sequence[Course]) -> int:
    """Return how many looks there are to take along several courses.

    >>> count([((8, 6), (8, 10)), ((8, 8),)])
    4
    """
    return len(
        {sizes[:n] for course in courses for sizes in course for n in range(1, 1 + len(sizes))}
    )


def split(images: Tensor, sigma: float, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return frames with more noise, others with even more, independent of it, and the standard
    deviation of the noise of the first.

    Parameters
    ----------
    images
        Noisy frames.
    sigma
        Standard deviation of their noise, which is Gaussian.
    generator
        Source of the noise that is added.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> noisy = 2.0 * torch.randn(1, 200, 200, 1, generator=g)
    >>> first, second, sigma = split(noisy, 2.0, g)
    >>> abs(float(first.std()) / sigma - 1) < 0.01, abs(float((first * second).mean())) < 0.1
    (True, True)
    """
    noise = sigma * torch.randn(images.shape, generator=generator, device=images.device)
    first, second = images + _MORE * noise, images - noise / _MORE
    return first, second, sigma * (1 + _MORE**2) ** 0.5


def best_course(looks: Looks, courses: Sequence[Course], judge: Tensor, known: Tensor) -> Course:
    """Return the course whose estimate is nearest to a picture with independent noise.

    Parameters
    ----------
    looks
        At frames with more noise than there was.
    courses
        Those to choose from; the first one where they come out alike.
    judge
        Frames with independent noise.
    known
        Where they are to be compared, same shape.

    Examples
    --------
    >>> clean = torch.arange(24.0).div(12).floor().expand(1, 24, 24)[..., None]
    >>> g = torch.Generator().manual_seed(0)
    >>> first, second, sigma = split(clean + torch.randn(clean.shape, generator=g), 1.0, g)
    >>> looks = Looks(first, first, sigma)
    >>> best_course(looks, [((),), ((6,),)], second, torch.ones_like(clean, dtype=bool))
    ((6,),)
    """
    errors = [float((looks.along(course) - judge)[known].square().mean()) for course in courses]
    return courses[errors.index(min(errors))]


__all__ = ["Looks", "best_course", "count", "split"]

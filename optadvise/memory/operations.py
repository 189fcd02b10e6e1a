"""The operations that a network's description may name, and what PyTorch keeps, needs and makes for each. Pure.

Every public method is an operation. Its arguments are tensors first, then named numbers; it returns the output tensor.
Under autocast every matrix product casts its input anew, and the cast copy is what is saved; that is modelled as it
happens.
"""

from __future__ import annotations

from optadvise.core.errors import InputError
from optadvise.memory.autograd import Recorder, Tensor
from optadvise.memory.records import FULL, HALF, LEARNING_INPUTS, Shape, Weight


def _windows(side: int, k: int, stride: int, pad: int) -> int:
    """Return how many places a window of k pixels has on a side."""
    if side + 2 * pad < k:
        raise InputError(f"the image is too small: a window of {k} is laid on {side} with a rim of {pad}")
    return (side + 2 * pad - k) // stride + 1


class Tape(Recorder):
    """Runs one block's operations."""

    # -- what matrices do ----------------------------------------------------------------------------------------

    def _cast(self, x: Tensor) -> Tensor:
        """Return what a matrix product takes: a new half-precision copy under autocast, else the tensor itself."""
        if x.item == self.mode.compute or not self.mode.autocast:
            return x
        return self._new(x.shape, self.mode.compute, x.grad)

    def linear(self, x: Tensor, *, out: int, bias: int = 0, tied: int = 0, turned: int = 0,
               target: str = "") -> Tensor:  # fmt: skip
        """X · Wᵀ + b on the last axis; a turned one holds W the other way round."""
        mode, width = self.mode, x.shape[-1]
        sides = (width, out) if turned else (out, width)
        gradient, size = (0, 0) if tied else self._weight(sides, "matrix" if target else "head")
        if tied:
            size = out * width * mode.weights
        if bias:
            gradient += self._weight((out,), "vector")[0]
        # The gradient of a tied weight is counted where the embedding makes its own and adds it.
        if tied and not mode.frozen:
            gradient = size
        half = mode.autocast and mode.weights != mode.compute
        packed = mode.quantised and bool(target)
        taken = self._cast(x)
        y = self._product((*x.shape[:-1], out), mode.compute if mode.autocast else x.item)
        unpacked = out * width * HALF if packed else 0
        saved = (taken,) if gradient else ()
        y = self._done(
            y, (x,), saved, scratch=unpacked, backward=unpacked, gradient=gradient,
            copies=out * width * mode.compute if half else 0,
            gradient_scratch=out * width * mode.compute if half and gradient else 0,
            viewed=taken is x and len(x.shape) > 2,
        )  # fmt: skip
        if not saved and taken is not x:
            self._forget(taken)
        return self._adapted(x, y, target) if mode.rank and target else y

    def fused(self, x: Tensor, *, q: int, kv: int, target: str = "") -> Tensor:
        """One product for queries, keys and values."""
        return self.linear(x, out=q + 2 * kv, target=target)

    def projected(self, x: Tensor, *, out: int) -> Tensor:
        """A product to another width; nothing where the width is the same."""
        return x if x.shape[-1] == out else self.linear(x, out=out, target="project")

    def _adapted(self, x: Tensor, y: Tensor, target: str) -> Tensor:
        """Add a low-rank adapter's output, as PEFT does: its input in its own precision, scaled, then summed."""
        mode = self.mode
        if mode.targets is not None and target not in mode.targets:
            return y
        out, width, rank = y.shape[-1], x.shape[-1], mode.rank
        self.weights += [Weight((rank, width), "adapter"), Weight((out, rank), "adapter")]
        # The layer holds its input in the adapter's precision until it returns; autocast then casts that anew.
        own = self._to(x, mode.adapters)
        self.hold(own)
        item = mode.compute if mode.autocast else mode.adapters
        low = self._low_rank(own, rank, item)
        scaled = self.scale(self._low_rank(low, out, item))
        summed = self._to(self.add(y, scaled), y.item)
        self.drop(own)
        return summed

    def _low_rank(self, x: Tensor, out: int, item: int) -> Tensor:
        """The product with one of an adapter's matrices."""
        mode, size = self.mode, x.shape[-1] * out
        taken = self._to(x, item)
        copies = size * item if mode.autocast and mode.adapters != item else 0
        return self._done(
            self._new((*x.shape[:-1], out), item, False), (taken,), (taken,), copies=copies,
            gradient=size * mode.adapters, gradient_scratch=copies, viewed=len(x.shape) > 2,
        )  # fmt: skip

    def conv(self, x: Tensor, *, out: int, k: int = 1, stride: int = 1, groups: int = 1, bias: int = 0,
             pad: int = -1) -> Tensor:  # fmt: skip
        """A square convolution; padding keeps the size at stride 1 unless it is given."""
        mode, (batch, width, high, wide) = self.mode, x.shape
        gradient, size = self._weight((out, width // groups, k, k), "matrix")
        if bias:
            gradient += self._weight((out,), "vector")[0]
        padding = k // 2 if pad < 0 else pad
        half = mode.autocast and mode.weights != mode.compute
        sides = _windows(high, k, stride, padding), _windows(wide, k, stride, padding)
        taken = self._cast(x)
        y = self._product((batch, out, *sides), mode.compute if mode.autocast else x.item)
        copies = size * mode.compute // mode.weights if half else 0
        return self._done(
            y, (x,), (taken,), copies=copies, gradient=gradient, gradient_scratch=copies if gradient else 0
        )

    def _laid(self, x: Tensor) -> Tensor:
        """Return the copy that a batched product makes of heads that lie beside one another."""
        return self._new(x.shape, self.mode.compute if self.mode.autocast else x.item, x.grad)

    def scores(self, q: Tensor, k: Tensor, *, heads: int, groups: int = 1) -> Tensor:
        """Q · Kᵀ for every head; keys that were repeated lie as the product wants them, others are copied."""
        a, b = self._laid(q), self._cast(k) if groups > 1 else self._laid(k)
        shape = (q.shape[0], heads, q.shape[1], k.shape[1])
        out = self._new(shape, self.mode.compute if self.mode.autocast else q.item, False)
        return self._done(out, (q, k), (a, b))

    def mix(self, p: Tensor, v: Tensor, *, groups: int = 1) -> Tensor:
        """The weighted sum of values."""
        a, b = self._cast(p), self._cast(v) if groups > 1 else self._laid(v)
        shape = (p.shape[0], p.shape[2], v.shape[-1])
        out = self._product(shape, self.mode.compute if self.mode.autocast else v.item)
        return self._done(out, (p, v), (a, b))

    def flash(self, q: Tensor, k: Tensor, v: Tensor, *, heads: int, biased: int = 0) -> Tensor:
        """Attention in one kernel: keeps its inputs, output, a number per row, and a copy of a learned bias."""
        a, b, c = self._cast(q), self._cast(k), self._cast(v)
        out = self._product(q.shape, self.mode.compute if self.mode.autocast else q.item)
        rows = self._new((q.shape[0], heads, q.shape[1]), FULL, False)
        # Backward sums the queries' gradient in full precision, and makes those of shared keys for every head.
        backward = rows.elements * FULL + (0 if out.item == FULL else q.elements * FULL)
        backward += 2 * q.elements * out.item if k.shape[-1] < q.shape[-1] else 0
        if not biased:
            return self._done(out, (q, k, v), (a, b, c, out, rows), backward=backward)
        bias = self._new((heads, q.shape[1], k.shape[1]), out.item, False)
        backward += q.shape[0] * bias.elements * bias.item
        return self._done(out, (q, k, v), (a, b, c, out, rows, bias), backward=backward)

    # -- what works on single values -----------------------------------------------------------------------------

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum; keeps nothing."""
        big = a if a.elements >= b.elements else b
        return self._done(self._new(big.shape, max(a.item, b.item), False), (a, b), passes=True)

    def add_(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum in a's place; keeps nothing."""
        return self._done(Tensor(a.storage, a.shape, a.item, a.grad), (a, b), passes=True)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """The product; each factor is kept for the other's gradient."""
        big, small = (a, b) if a.elements >= b.elements else (b, a)
        saved = (*((b,) if a.grad else ()), *((a,) if b.grad else ()))
        out = self._new(big.shape, max(a.item, b.item), False)
        # A factor that is spread over the other has a gradient as large as the product before it is summed.
        spread = small.grad and small.elements < big.elements
        return self._done(out, (a, b), saved, backward=big.elements * out.item if spread else 0)

    def gain(self, x: Tensor, *, width: int = 0, name: str = "vector") -> Tensor:
        """The product with a vector of weights."""
        gradient, _ = self._weight((width or x.shape[-1],), name)
        saved = (x,) if gradient else ()
        out = self._new(x.shape, max(x.item, self.mode.weights), False)
        # The product with the incoming gradient is as large as x before it is summed to a vector.
        scratch = x.elements * x.item if gradient else 0
        return self._done(out, (x,), saved, gradient=gradient, gradient_scratch=scratch)

    def scale(self, x: Tensor) -> Tensor:
        """The product with a constant; keeps nothing."""
        return self._done(self._new(x.shape, x.item, False), (x,))

    copy = scale  # a contiguous copy: a new tensor, and nothing kept

    def keeps_input(self, x: Tensor) -> Tensor:
        """An activation function whose gradient needs its input: GELU, SiLU; in place it keeps a copy of that."""
        return self._done(self._new(x.shape, x.item, False), (x,), (x,))

    gelu = silu = relu6 = hardswish = hardsigmoid = keeps_input

    def keeps_output(self, x: Tensor) -> Tensor:
        """An activation function whose gradient needs its output: ReLU, tanh, sigmoid."""
        out = self._new(x.shape, x.item, False)
        return self._done(out, (x,), (out,))

    relu = tanh = sigmoid = keeps_output

    def relu_(self, x: Tensor) -> Tensor:
        """ReLU in place: its output takes its input's place."""
        out = Tensor(x.storage, x.shape, x.item, x.grad)
        return self._done(out, (x,), (out,))

    def power(self, x: Tensor) -> Tensor:
        """A power, in full precision under autocast; keeps its input."""
        taken = self._new(x.shape, FULL, x.grad) if self.mode.autocast and x.item != FULL else x
        return self._done(self._new(x.shape, taken.item, False), (x,), (taken,))

    def square_mean(self, x: Tensor, *, width: int = 0) -> Tensor:
        """The mean of squares of the last axis, or of each stretch of it; keeps its input."""
        squares = x.elements * x.item
        out = self._new((*x.shape[:-1], x.shape[-1] // width if width else 1), x.item, False)
        return self._done(out, (x,), (x,), scratch=squares, backward=2 * squares)

    def softmax(self, x: Tensor) -> Tensor:
        """Softmax of the last axis in full precision; keeps its output."""
        out = self._new(x.shape, FULL, False)
        scratch = 0 if x.item == FULL else x.elements * FULL
        return self._done(out, (x,), (out,), backward=scratch)

    def softmax_same(self, x: Tensor) -> Tensor:
        """Softmax in the precision of its input, in full precision under autocast."""
        return self.softmax(x) if self.mode.autocast else self.keeps_output(x)

    def dropout(self, x: Tensor, *, on: int = 1) -> Tensor:
        """Dropout; keeps one byte of mask for each element, as on CUDA."""
        if not on:
            return x
        mask = self._new(x.shape, 1, False)
        return self._done(self._new(x.shape, x.item, False), (x,), (mask,))

    def rope(self, x: Tensor) -> Tensor:
        """Rotary positions: two products with constants, which are as precise as the embedding, and their sum."""
        item = max(x.item, self.mode.weights)
        size = x.elements * item
        return self._done(self._new(x.shape, item, False), (x,), scratch=2 * size, backward=2 * size)

    def full(self, x: Tensor) -> Tensor:
        """The tensor in full precision."""
        return self._to(x, FULL)

    def like(self, x: Tensor, y: Tensor) -> Tensor:
        """X in y's precision."""
        return self._to(x, y.item)

    def half(self, x: Tensor) -> Tensor:
        """The tensor in the precision of the weights."""
        return self._to(x, self.mode.weights)

    def _to(self, x: Tensor, item: int) -> Tensor:
        return x if x.item == item else self._done(self._new(x.shape, item, False), (x,))

    # -- normalisation -------------------------------------------------------------------------------------------

    def layer_norm(self, x: Tensor, *, bias: int = 1, width: int = 0, plain: int = 0) -> Tensor:
        """Layer normalisation in one kernel, in full precision under autocast; keeps its input; plain: no weights."""
        count = width or x.shape[-1]
        gradient = 0 if plain else self._weight((count,), "vector")[0]
        if bias and not plain:
            gradient += self._weight((count,), "vector")[0]
        taken = self._new(x.shape, FULL, x.grad) if self.mode.autocast and x.item != FULL else x
        rows = self._new((x.elements // count,), 2 * FULL, False)
        return self._done(self._new(x.shape, taken.item, False), (x,), (taken, rows), gradient=gradient)

    def channel_norm(self, x: Tensor) -> Tensor:
        """Layer normalisation over the channels of an image, made channels-last and back."""
        return self.channels_first(self.layer_norm(self.channels_last(x)))

    def batch_norm(self, x: Tensor) -> Tensor:
        """Batch normalisation; keeps its input."""
        width = x.shape[1]
        gradient = self._weight((width,), "vector")[0] + self._weight((width,), "vector")[0]
        return self._done(self._new(x.shape, x.item, False), (x,), (x,), gradient=gradient)

    # -- looking up and looking at -------------------------------------------------------------------------------

    def embedding(self, x: Tensor, *, rows: int, width: int, extra: int = 0, tied: int = 0,
                  shared: int = 0) -> Tensor:  # fmt: skip
        """A row for each index, its gradient dense; tied: added to the other's; shared: an earlier one's rows."""
        first = not self.weights
        gradient, size = self._weight((rows + extra, width), "embedding")
        if shared:
            self.weights.pop()
        out = self._new((*x.shape, width), self.mode.weights, False)
        scratch = size if (tied or shared) and gradient else 0
        self._done(out, (), gradient=0 if scratch else gradient, gradient_scratch=scratch)
        if first and LEARNING_INPUTS in self.mode.flags:  # a leaf, which the graph holds
            out.grad = True
            self.hold(out)
            self._saved.add(out.storage)
        return out

    def table(self, x: Tensor, *, rows: int, width: int) -> Tensor:
        """Learned positions: one row for each place, the same for every sample."""
        gradient, _ = self._weight((rows, width), "embedding")
        return self._done(self._new((1, x.shape[1], width), self.mode.weights, False), (), gradient=gradient)

    def learned(self, x: Tensor, *, rows: int, extra: int = 0) -> Tensor:
        """The sum with learned positions."""
        gradient, _ = self._weight((1, rows + extra, x.shape[-1]), "embedding")
        return self._done(self._new(x.shape, max(x.item, self.mode.weights), False), (x,), passes=True,
                          gradient=gradient)  # fmt: skip

    def relative(self, x: Tensor, *, rows: int, heads: int) -> Tensor:
        """Learned biases of attention scores by distance, made once and held for every layer; x passes."""
        gradient, _ = self._weight((rows, heads), "embedding")
        places = x.shape[1] * x.shape[1]
        biases, indices = self._new((heads, places), self.mode.weights, False), self._new((places,), 8, False)
        out = Tensor(x.storage, x.shape, x.item, x.grad)
        return self._done(out, (x,), (biases, indices), passes=True, gradient=gradient,
                          gradient_scratch=heads * places * self.mode.weights)  # fmt: skip

    # -- experts -------------------------------------------------------------------------------------------------

    def chosen(self, x: Tensor, *, top: int) -> Tensor:
        """The largest values of the last axis; keeps their places."""
        shape = (*x.shape[:-1], top)
        return self._done(self._new(shape, x.item, False), (x,), (self._new(shape, 8, False),))

    def dispatch(self, x: Tensor, *, top: int) -> Tensor:
        """Every token once for each of its experts, sorted by expert."""
        shape = (x.shape[0], x.shape[1] * top, x.shape[2])
        return self._done(self._new(shape, x.item, False), (x,), (self._new(shape[:2], 8, False),))

    def grouped(self, x: Tensor, *, out: int, count: int) -> Tensor:
        """Each expert's product with its tokens, in the precision of the weights: autocast does not reach it."""
        gradient, _ = self._weight((count, out, x.shape[-1]), "matrix")
        item = self.mode.weights
        taken = x if x.item == item else self._new(x.shape, item, x.grad)
        y = self._product((*x.shape[:-1], out), item)
        return self._done(y, (x,), (taken,) if gradient else (), gradient=gradient)

    def collect(self, y: Tensor, w: Tensor, x: Tensor, *, top: int) -> Tensor:
        """The weighted sum of what a token's experts gave, in x's precision."""
        shape = (y.shape[0], y.shape[1] // top, y.shape[2])
        rows = self._new(y.shape[:2], 8, False)
        size = y.elements * max(y.item, w.item)
        out = self._new(shape, x.item, False)
        return self._done(out, (y, w), (y, w, rows), scratch=2 * size, backward=2 * size)

    def prepend(self, x: Tensor, *, count: int = 1) -> Tensor:
        """Learned tokens put before a sequence, which is copied."""
        gradient, _ = self._weight((1, count, x.shape[-1]), "vector")
        out = self._new((x.shape[0], x.shape[1] + count, x.shape[2]), x.item, False)
        return self._done(out, (x,), gradient=gradient)

    def part(self, x: Tensor, *, of: int) -> Tensor:
        """An equal part of the last axis: a view of the same storage."""
        return self._view(x, (*x.shape[:-1], x.shape[-1] // of))

    def piece(self, x: Tensor, *, width: int) -> Tensor:
        """A stretch of the last axis: a view of the same storage."""
        return self._view(x, (*x.shape[:-1], width))

    def second(self, a: Tensor, b: Tensor) -> Tensor:
        """The second of two, where a flag chooses between them."""
        return b

    def part_copy(self, x: Tensor, *, of: int) -> Tensor:
        """An equal part of the last axis as a tensor of its own."""
        return self._done(self._new((*x.shape[:-1], x.shape[-1] // of), x.item, False), (x,))

    def sequence(self, x: Tensor) -> Tensor:
        """An image's places as a sequence: a view."""
        batch, width, high, wide = x.shape
        return self._view(x, (batch, high * wide, width))

    def channels_last(self, x: Tensor) -> Tensor:
        """An image with its channels as the last axis: a view."""
        batch, width, high, wide = x.shape
        return self._view(x, (batch, high, wide, width))

    def channels_first(self, x: Tensor) -> Tensor:
        """The same back: a view."""
        batch, high, wide, width = x.shape
        return self._view(x, (batch, width, high, wide))

    def first(self, x: Tensor) -> Tensor:
        """The first token: a view."""
        return self._view(x, (x.shape[0], x.shape[-1]))

    def _view(self, x: Tensor, shape: Shape) -> Tensor:
        out = Tensor(x.storage, shape, x.item, x.grad)
        return self._done(out, (x,), passes=shape == x.shape or out.elements == x.elements)

    def repeat(self, x: Tensor, *, times: int) -> Tensor:
        """Keys or values copied for every head that shares them; nothing where each head has its own."""
        if times == 1:
            return x
        return self._done(self._new((*x.shape[:-1], x.shape[-1] * times), x.item, False), (x,))

    def pool(self, x: Tensor, *, k: int, stride: int, pad: int = 0) -> Tensor:
        """Max pooling; keeps its input and the places of the maxima."""
        shape = (*x.shape[:2], *(_windows(side, k, stride, pad) for side in x.shape[2:]))
        places = self._new(shape, 8, False)
        return self._done(self._new(shape, x.item, False), (x,), (x, places))

    def average_pool(self, x: Tensor, *, k: int, stride: int) -> Tensor:
        """Average pooling; keeps its input."""
        shape = (*x.shape[:2], *(_windows(side, k, stride, 0) for side in x.shape[2:]))
        return self._done(self._new(shape, x.item, False), (x,), (x,))

    def resize_pool(self, x: Tensor, *, side: int) -> Tensor:
        """Average pooling to an image of a given size; keeps its input, except where it is the mean of all."""
        return self._done(self._new((*x.shape[:2], side, side), x.item, False), (x,), (x,) if side > 1 else ())

    def thin(self, x: Tensor, *, out: int, stride: int) -> Tensor:
        """Every so many places of an image, with channels of zeros added; keeps nothing."""
        shape = (x.shape[0], out, *(_windows(side, 1, stride, 0) for side in x.shape[2:]))
        return self._done(self._new(shape, x.item, False), (x,))

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """Two images' channels side by side; keeps nothing."""
        shape = (a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
        return self._done(self._new(shape, max(a.item, b.item), False), (a, b))

    def average(self, x: Tensor) -> Tensor:
        """The mean over an image's places, or over a sequence."""
        width = x.shape[1] if len(x.shape) == 4 else x.shape[-1]
        return self._done(self._new((x.shape[0], width), x.item, False), (x,))

    def flat(self, x: Tensor) -> Tensor:
        """All of a sample's values in one row: a view."""
        return self._view(x, (x.shape[0], x.elements // x.shape[0]))

    # -- the end -------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor) -> Tensor:
        """Cross-entropy over the last axis in full precision, as its log-softmax and the two gradients of that."""
        taken = x if x.item == FULL else self._done(self._new(x.shape, FULL, False), (x,))
        size = taken.elements * FULL
        saved = self._new(x.shape, FULL, False)
        out = self._new((1,), FULL, False)
        # Backward makes the gradient of the log-probabilities, and from it that of the logits, which is the input's.
        return self._done(out, (taken,), (saved,), backward=size)

    def loss_same(self, x: Tensor) -> Tensor:
        """Cross-entropy in the precision of the logits, in full precision under autocast."""
        if self.mode.autocast or x.item == FULL:
            return self.loss(x)
        saved, out = self._new(x.shape, x.item, False), self._new((1,), x.item, False)
        return self._done(out, (x,), (saved,), backward=x.elements * x.item)

    def chunked_loss(self, x: Tensor, *, out: int, tied: int = 0, bias: int = 0, chunks: int = 8) -> Tensor:
        """A product to logits and its cross-entropy, a part of the sequence at a time and again in backward."""
        mode, width = self.mode, x.shape[-1]
        gradient, _ = self._weight((out, width), "head")
        if tied:
            self.weights.pop()
        if bias:
            gradient += self._weight((out,), "vector")[0]
        half = mode.autocast and mode.weights != mode.compute
        item = mode.compute if mode.autocast else x.item
        rows = x.elements // width // chunks
        logits, full = rows * out * item, rows * out * FULL
        # A chunk's log-softmax and two gradients; or its gradient of the weight, the others' sum, and the new sum,
        # which is not made in place. Under autocast a copy of the weight is there instead.
        again = 3 * full + (rows * width * item if half else 0)
        if gradient:
            again = max(again, out * width * item + (logits if half else gradient))
        y = self._new((1,), FULL, False)
        copies = out * width * mode.compute if half else 0
        return self._done(
            y, (x,), (x,), scratch=logits + full * (2 if item != FULL else 1), backward=again, copies=copies,
            gradient=gradient, gradient_scratch=copies if gradient else 0,
        )  # fmt: skip

"""Kernels and bytes of HLO text: of programs that XLA for CPU has optimised, and counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.accelerators import cost_model, hlo

BY_HAND = """\
HloModule by_hand, is_scheduled=true

%sliced (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,8]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,8}
}

%updated (p0: f32[100,8], p1: f32[1,8], p2: s32[]) -> f32[100,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = f32[1,8]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %all = f32[100,8]{1,0} dynamic-update-slice(%p0, %p1, %p2, %zero)
}

%dear (p: f32[1,8]) -> f32[1,8] {
  %p = f32[1,8]{1,0} parameter(0)
  %one = f32[1,8]{1,0} negate(%p)
  ROOT %two = f32[1,8]{1,0} custom-call(%one), custom_call_target="library", backend_config={"text":"a(b"}
}

%cheap (p: f32[1,8]) -> f32[1,8] {
  ROOT %p = f32[1,8]{1,0} parameter(0)
}

%body (state: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %table = f32[100,8]{1,0} get-tuple-element(%state), index=1
  %row = f32[1,8]{1,0} fusion(%table, %number), kind=kLoop, calls=%sliced
  %either = f32[1,8]{1,0} conditional(%number, %row, %row), branch_computations={%dear, %cheap}
  %written = f32[100,8]{1,0} fusion(%table, %either, %number), kind=kLoop, calls=%updated
  ROOT %next = (s32[], f32[100,8]{1,0}) tuple(%number, %written)
}

%condition (state: (s32[], f32[100,8])) -> pred[] {
  %state = (s32[], f32[100,8]{1,0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%number, %number), direction=LT
}

ENTRY %main (table: f32[100,8]) -> f32[100,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %begin = s32[] constant(0)
  %state = (s32[], f32[100,8]{1,0}) tuple(%begin, %table)
  %loop = (s32[], /*index=1*/f32[100,8]{1,0}) while(%state), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"6"}}
  %last = f32[100,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %doubled = f32[100,8]{1,0} add(%last, %last)
}
"""


def test_slices_updates_in_place_and_branches():
    """Of the table a row of 32 bytes is read and one is written; one of two branches has two kernels."""
    module = hlo.Module(BY_HAND)
    row, number, table = 32, 4, 3200
    (loop,) = module.loops()
    branches = 2 * (row + row) / 2
    assert loop == (6, 0, (3.0, (row + number + row) + branches + (row + number + row)))
    assert module.total() == (6 * 3 + 1, 6 * loop.step.bytes + 3 * table)


def test_a_loop_inside_of_a_loop_counts_in_both():
    def program(x):
        def step(x, _):
            return jax.lax.scan(lambda x, _: (jnp.sin(x) @ x, None), x, length=7)[0], None

        return jax.lax.scan(step, x, length=11)[0]

    module = hlo.Module(jax.jit(program).lower(jnp.ones((64, 64))).compile().as_text())
    outer, inner = module.loops()
    assert [(loop.trips, loop.depth) for loop in (outer, inner)] == [(11, 0), (7, 1)]
    assert outer.step.kernels >= 7 * inner.step.kernels >= 7
    size = 4 * 64 * 64
    assert 3 * size <= inner.step.bytes <= 8 * size  # sine and product: read, written, and a copy at most
    assert module.total().bytes >= 11 * outer.step.bytes


PRODUCTS = """\
HloModule products, is_scheduled=true

%gemm (p0: f32[100,8], p1: f32[8,16]) -> f32[100,16] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = f32[8,16]{1,0} parameter(1)
  ROOT %product = f32[100,16]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[100,8], w: f32[8,16], s: f32[5,10,16], o: f32[4,10,16]) -> f32[5,10,16] {
  %x = f32[100,8]{1,0} parameter(0)
  %w = f32[8,16]{1,0} parameter(1)
  %s = f32[5,10,16]{2,1,0} parameter(2)
  %o = f32[4,10,16]{2,1,0} parameter(3)
  %y = f32[100,16]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm
  %z = f32[100,16]{1,0} custom-call(%y, %w, %w, %w, %w), custom_call_target="__gpu$xla.gpu.triton"
  ROOT %h = f32[5,10,16]{2,1,0} custom-call(%s, %o, %w, %w, %w, %w), custom_call_target="__gpu$xla.gpu.triton"
}
"""


def test_products_are_counted_those_of_our_kernels_in_whole_tiles():
    """A product of 100 x 8 by 8 x 16, a residual block, and three gates of five and of four streams."""
    product, block, layer = hlo.Module(PRODUCTS).kernels()
    assert product.flops == 2 * 100 * 8 * 16
    assert block.flops == 2 * 100 * 16 * 64
    assert layer.flops == 2 * (5 + 4) * 10 * 16 * 3 * 64
    assert (layer.op, layer.size, layer.times) == ("custom-call", 5 * 10 * 16, 1)


def test_kernels_are_those_that_the_total_counts():
    module = hlo.Module(BY_HAND)
    launched = [kernel for kernel in module.kernels() if kernel.op != "conditional"]
    assert sum(kernel.times for kernel in launched) == module.total().kernels
    assert sum(kernel.times * kernel.bytes for kernel in launched) == module.total().bytes


@pytest.mark.parametrize(
    ("kernel", "seconds"),
    [
        (hlo.Kernel(3, "fusion", 8, 0.0, 1), 3 * 2e-6),  # a launch is all that it costs
        (hlo.Kernel(1, "fusion", 10**9, 0.0, 10**8), 1e-6 + 1e-3),  # memory
        (hlo.Kernel(1, "fusion", 10**7, 0.0, 10**7), 1e-6 + 5e-6),  # out of the cache
        (hlo.Kernel(1, "fusion", 10**7, 132e9, 10**7), 1e-6 + 1e-3),  # products, on all multiprocessors
        (hlo.Kernel(1, "fusion", 10**4, 1e9, 100), 1e-6 + 1e-3),  # on one of them: a tile
        (hlo.Kernel(1, "fusion", 10**4, 132e9, 264 * 4096 // 2 + 4096), 1e-6 + 1e-3 * 264 / 133),  # two waves
        (hlo.Kernel(0.5, "conditional", 0, 0.0, 0), 0.5 * 5 * 2e-6),
    ],
)
def test_a_kernel_lasts_as_long_as_what_bounds_it(kernel, seconds):
    rates = cost_model.Rates(launch=2e-6, memory=1e12, cache=2e12, products=1e12)
    assert cost_model.seconds([kernel], rates) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[2,3]{1,0:T(8,128)}", 24),
        ("(bf16[4]{0}, pred[3], s32[], u8[0])", 15),
        ("s4[7]{0}", 4),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(text, size):
    assert hlo.num_bytes(text) == size


@pytest.mark.parametrize("text", ["", "module {}", "%a (b: f32[]) -> f32[] {\n}\n"])
def test_what_is_no_program_is_said(text):
    with pytest.raises(ValueError, match="no HLO text: it has no ENTRY"):
        hlo.Module(text)

"""The precision of products: bf16 factors, float32 sums, put back afterwards."""

import pytest
import torch

from residualformer.kernels.precision import products, wanted

CPU = torch.backends.mkldnn.matmul


def test_wanted_is_autocast_to_bf16():
    assert not wanted("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert wanted("cpu") and not wanted("cuda")
        with torch.autocast("cpu", enabled=False):
            assert not wanted("cpu")
    with torch.autocast("cpu", torch.float16):
        assert not wanted("cpu")


def test_factors_may_be_rounded_to_bf16_and_sums_are_not():
    torch.manual_seed(0)
    a, b = torch.randn(64, 512), torch.randn(512, 96)
    exact, rounded = a.double() @ b.double(), a.bfloat16().double() @ b.bfloat16().double()
    with products("cpu", bf16=True):
        product = a @ b
    assert product.dtype == torch.float32
    # float32 sums of 512 terms near 1; without bf16 instructions the factors stay as they are
    assert min((product - reference).abs().max() for reference in (exact, rounded)) < 1e-3
    with products("cpu", bf16=False):
        torch.testing.assert_close(a @ b, exact.float(), rtol=0, atol=1e-3)


def test_the_setting_is_put_back():
    before = CPU.fp32_precision
    with products("cpu", bf16=True):
        assert CPU.fp32_precision == "bf16"
        with products("cpu", bf16=True), products("meta", bf16=True):
            pass
        assert CPU.fp32_precision == "bf16"
    assert CPU.fp32_precision == before
    with pytest.raises(KeyError), products("cpu", bf16=True):
        raise KeyError
    assert CPU.fp32_precision == before
    with products("cuda", bf16=True):  # settable without such a device
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    with products("cpu", bf16=False):
        assert CPU.fp32_precision == before

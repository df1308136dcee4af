"""The precision of products: bf16 factors, float32 sums, put back afterwards."""

import pytest
import torch

from residualformer.kernels.precision import bf16_products, is_bf16_autocast

CPU = torch.backends.mkldnn.matmul


def test_autocast_to_bf16_is_told_from_others():
    assert not is_bf16_autocast("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert is_bf16_autocast("cpu") and not is_bf16_autocast("cuda")
        with torch.autocast("cpu", enabled=False):
            assert not is_bf16_autocast("cpu")
    with torch.autocast("cpu", torch.float16):
        assert not is_bf16_autocast("cpu")


def test_factors_may_be_rounded_to_bf16_and_sums_are_not():
    torch.manual_seed(0)
    a, b = torch.randn(64, 512), torch.randn(512, 96)
    exact, rounded = a.double() @ b.double(), a.bfloat16().double() @ b.bfloat16().double()
    with bf16_products("cpu", enabled=True):
        product = a @ b
    assert product.dtype == torch.float32
    # float32 sums of 512 terms near 1; without bf16 instructions the factors stay as they are
    assert min((product - reference).abs().max() for reference in (exact, rounded)) < 1e-3
    with bf16_products("cpu", enabled=False):
        torch.testing.assert_close(a @ b, exact.float(), rtol=0, atol=1e-3)


def test_the_setting_is_put_back():
    before = CPU.fp32_precision
    with bf16_products("cpu", enabled=True):
        assert CPU.fp32_precision == "bf16"
        with bf16_products("cpu", enabled=True), bf16_products("meta", enabled=True):
            pass
        assert CPU.fp32_precision == "bf16"
    assert CPU.fp32_precision == before
    with pytest.raises(KeyError), bf16_products("cpu", enabled=True):
        raise KeyError
    assert CPU.fp32_precision == before
    with bf16_products("cuda", enabled=True):  # settable without such a device
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    with bf16_products("cpu", enabled=False):
        assert CPU.fp32_precision == before

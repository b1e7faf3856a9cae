"""Times PyTorch's scaled_dot_product_attention on the cases given as JSON on standard input, with every
backend that takes them. Prints a line of JSON for each. Started by bench/gpu.ts."""

import json
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = {
    "FlashAttention": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
WARM_UP_SECONDS = 0.5
FAR_BYTES = 256 * 2**20  # more than caches hold


def inputs_of(case):
    dtype = getattr(torch, case["dtype"])
    depth, batch = case["depth"], case["batch"]

    def random(heads, rows):
        return torch.randn(batch, heads, rows, depth, device="cuda", dtype=dtype)

    def one_set():
        kv_heads, keys = case["kvHeads"], case["keys"]
        return random(case["heads"], case["queries"]), random(kv_heads, keys), random(kv_heads, keys)

    first = one_set()
    size = sum(x.numel() * x.element_size() for x in first)
    copies = max(1, min(8, -(-FAR_BYTES // size)))
    return [first] + [one_set() for _ in range(copies - 1)]


def time_microseconds(call, sets, seconds):
    """Median of calls, as many as take a millisecond between two events."""
    turn = 0

    def batch(count, calls):
        nonlocal turn
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * count)]
        for i in range(count):
            events[2 * i].record()
            for _ in range(calls):
                call(*sets[turn % len(sets)])
                turn += 1
            events[2 * i + 1].record()
        torch.cuda.synchronize()
        return [1000 * events[2 * i].elapsed_time(events[2 * i + 1]) / calls for i in range(count)]

    batch(1, 1)
    first = max(batch(1, 1)[0], 1)
    calls = max(1, min(64, int(1000 / first)))
    count = max(1, min(32, int(20000 / calls / first)))
    end = time.perf_counter() + max(WARM_UP_SECONDS, seconds / 2)
    while time.perf_counter() < end:
        batch(count, calls)
    samples = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples += batch(count, calls)
    return {"median": statistics.median(samples), "least": min(samples), "samples": len(samples)}


def main():
    request = json.load(sys.stdin)
    seconds = request["milliseconds"] / 1000
    for case in request["cases"]:
        sets = None
        for name, backend in BACKENDS.items():
            for tf32 in (False, True) if case["dtype"] == "float32" else (None,):
                peer = f"PyTorch {torch.__version__}"
                if tf32 is not None:
                    torch.backends.cuda.matmul.allow_tf32 = tf32
                    peer += ", TF32" if tf32 else ""
                result = {"case": case["name"], "peer": peer, "variant": name}
                try:
                    sets = sets or inputs_of(case)

                    def call(q, k, v):
                        return scaled_dot_product_attention(
                            q, k, v, is_causal=case["causal"], enable_gqa=case["heads"] != case["kvHeads"]
                        )

                    with sdpa_kernel(backend):
                        result["timing"] = time_microseconds(call, sets, seconds)
                except Exception as error:  # a backend that does not take the case
                    result["error"] = str(error).splitlines()[0]
                print(json.dumps(result), flush=True)
                torch.cuda.empty_cache()


main()

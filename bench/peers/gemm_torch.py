"""Matrix products of a linear layer in PyTorch: forward, gradient of the input, gradient of the weight.

Reads one JSON line of settings from stdin, prints {"ready": true, "version": v}; then each line "forward R", "input R"
or "weight R" runs that product R times and prints {"seconds": s}, the mean of one.
"""
import json
import sys
import time

import torch
import torch.nn.functional as F


def main():
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    dtype = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
    n, k, f = settings["N"], settings["K"], settings["F"]
    x, w, dy = (torch.randn(size).to(dtype) for size in ((n, k), (f, k), (n, f)))
    products = {"forward": lambda: F.linear(x, w), "input": lambda: dy @ w, "weight": lambda: dy.t() @ x}
    print(json.dumps({"ready": True, "version": torch.__version__}), flush=True)
    with torch.no_grad():
        for line in sys.stdin:
            name, repeats = line.split()
            start = time.perf_counter()
            for _ in range(int(repeats)):
                products[name]()
            print(json.dumps({"seconds": (time.perf_counter() - start) / int(repeats)}), flush=True)


if __name__ == "__main__":
    main()

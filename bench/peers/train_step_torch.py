"""The benchmark's training step in PyTorch eager, written as a practitioner would: SDPA per sample, fused AdamW.

Reads one JSON line of settings from stdin, prints {"ready": true}; then each line "step" runs one training step and
prints {"seconds": s, "loss": l}; "peak" prints {"peak_bytes": b}, the high-water mark of resident memory.
"""
import json
import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def rope_split(d):
    spatial = 2 * ((3 * d) // 16)
    return d - 2 * spatial, spatial, spatial


def rope_table(grids, d, theta):
    tables = []
    for t, y, x in grids:
        pos = torch.stack(torch.meshgrid(torch.arange(t), torch.arange(y), torch.arange(x), indexing="ij"), -1).reshape(-1, 3)
        angles = []
        for axis, channels in enumerate(rope_split(d)):
            frequency = theta ** (-2.0 * torch.arange(channels // 2, dtype=torch.float64) / channels)
            angles.append(pos[:, axis : axis + 1].double() * frequency)
        tables.append(torch.cat(angles, -1))
    angle = torch.cat(tables)
    return angle.cos().float()[:, None], angle.sin().float()[:, None]


def rotate(x, cos, sin):
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def packed_attention(q, k, v, q_lengths, k_lengths):
    out = []
    for qi, ki, vi in zip(q.split(q_lengths), k.split(k_lengths), v.split(k_lengths)):
        qi, ki, vi = (a.transpose(0, 1)[None] for a in (qi, ki, vi))
        out.append(F.scaled_dot_product_attention(qi, ki, vi)[0].transpose(0, 1))
    return torch.cat(out).flatten(1)


class Attention(nn.Module):
    def __init__(self, cfg, source):
        super().__init__()
        D = cfg["width"]
        self.heads = cfg["heads"]
        self.q_proj = nn.Linear(D, D, bias=False)
        self.k_proj = nn.Linear(source, D, bias=False)
        self.v_proj = nn.Linear(source, D, bias=False)
        self.o_proj = nn.Linear(D, D, bias=False)
        self.q_norm = RMSNorm(D, 1e-6)
        self.k_norm = RMSNorm(D, 1e-6)

    def forward(self, x, source, lengths, source_lengths, q_rope, k_rope):
        heads = lambda y: y.reshape(y.shape[0], self.heads, -1)
        q, k, v = heads(self.q_norm(self.q_proj(x))), heads(self.k_norm(self.k_proj(source))), heads(self.v_proj(source))
        q = rotate(q, *q_rope)
        if k_rope is not None:
            k = rotate(k, *k_rope)
        return self.o_proj(packed_attention(q, k, v.to(q.dtype), lengths, source_lengths))


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        D = cfg["width"]
        self.modulation = nn.Linear(D, 6 * D)
        self.attn1 = Attention(cfg, D)
        self.attn2 = Attention(cfg, cfg["text_width"])
        self.norm2 = RMSNorm(D, 1e-6)
        self.norm3 = RMSNorm(D, 1e-6)
        self.fc1 = nn.Linear(D, 4 * D)
        self.fc2 = nn.Linear(4 * D, D)

    def forward(self, x, text, silu_c, repeats, lengths, text_lengths, rope):
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            self.modulation(silu_c).repeat_interleave(repeats, 0).chunk(6, -1)
        )
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_a) + shift_a
        x = x + gate_a * self.attn1(h, h, lengths, lengths, rope, rope)
        x = x + self.attn2(self.norm2(x), text, lengths, text_lengths, rope, None)
        h = self.norm3(x) * (1 + scale_m) + shift_m
        return x + gate_m * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        D, P = cfg["width"], cfg["latent_channels"] * math.prod(cfg["patch"])
        self.patch_embed = nn.Linear(P, D)
        self.fc1 = nn.Linear(256, D)
        self.fc2 = nn.Linear(D, D)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg["depth"]))
        self.final_modulation = nn.Linear(D, 2 * D)
        self.final_proj = nn.Linear(D, P)

    def forward(self, tokens, t, text, lengths, text_lengths, repeats, rope):
        frequency = torch.exp(-math.log(10000.0) * torch.arange(128, dtype=torch.float64) / 128)
        angle = 1000.0 * t[:, None].double() * frequency
        c = F.silu(self.fc2(F.silu(self.fc1(torch.cat((angle.cos(), angle.sin()), -1).float()))))
        x = self.patch_embed(tokens)
        for block in self.blocks:
            x = block(x, text, c, repeats, lengths, text_lengths, rope)
        shift, scale = self.final_modulation(c).repeat_interleave(repeats, 0).chunk(2, -1)
        return self.final_proj(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


def main():
    settings = json.loads(sys.stdin.readline())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    cfg, grids, text_lengths = settings["model"], settings["grids"], settings["text_lengths"]
    bf16 = settings["bf16"]
    lengths = [t * y * x for t, y, x in grids]
    repeats = torch.tensor(lengths)
    P = cfg["latent_channels"] * math.prod(cfg["patch"])
    model = Model(cfg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    ema = [p.detach().clone() for p in model.parameters()]
    rope = rope_table(grids, cfg["width"] // cfg["heads"], 10000.0)
    data = torch.randn(sum(lengths), P)
    text = torch.randn(sum(text_lengths), cfg["text_width"])

    def step():
        t = torch.sigmoid(torch.randn(len(grids)))
        noise = torch.randn_like(data)
        t_token = t.repeat_interleave(repeats)[:, None]
        x_t, target = t_token * data + (1 - t_token) * noise, data - noise
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            velocity = model(x_t, t, text, lengths, text_lengths, repeats, rope)
        squares = ((velocity.float() - target) ** 2).split(lengths)
        loss = torch.stack([part.mean() for part in squares]).sum() / len(lengths)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, list(model.parameters()), 0.001)
        return loss.item(), norm.item()

    print(json.dumps({"ready": True, "version": torch.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip() == "step":
            start = time.perf_counter()
            loss, _ = step()
            print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), flush=True)
        elif line.strip() == "peak":
            with open("/proc/self/status") as status:
                peak = next(int(row.split()[1]) * 1024 for row in status if row.startswith("VmHWM"))
            print(json.dumps({"peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()

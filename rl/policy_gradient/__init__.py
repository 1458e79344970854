"""Alignment by policy gradient on the denoising chain; `rl.policy_gradient.align` is the entry point."""

"""The optional extension: without a compiler, or where it does not build, the same is done in Python."""

from setuptools import Extension, setup

NATIVE = "src/tepbft/native"

setup(
    ext_modules=[
        Extension(
            "tepbft.native._native",
            [f"{NATIVE}/{name}.c" for name in ("module", "requests", "sha256", "walk")],
            depends=[f"{NATIVE}/native.h", f"{NATIVE}/sha256.h"],
            extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden"],
            optional=True,
        )
    ]
)

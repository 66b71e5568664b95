"""The optional extension: without a compiler, or where it does not build, the same is done in Python."""

from setuptools import Extension, setup

NATIVE = "src/tepbft/native"

setup(
    ext_modules=[
        Extension(
            "tepbft.native._native",
            [
                f"{NATIVE}/{name}.c"
                for name in (
                    "module",
                    "requests",
                    "join",
                    "walk",
                    "outcomes",
                    "execute",
                    "writes",
                    "order",
                    "verify",
                    "sha256",
                )
            ],
            depends=[f"{NATIVE}/{name}.h" for name in ("native", "encode", "sha256")],
            extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden"],
            optional=True,
        )
    ]
)

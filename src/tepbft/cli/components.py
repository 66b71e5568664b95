"""Many trusted components at once: each is a process of its own, in its node's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tepbft.core.configuration import Genesis
from tepbft.errors import TepbftError, TrustedRefusal
from tepbft.runtime.layout import NodeLayout
from tepbft.trusted.client import DeviceClient, device_pid, ensure_device, stop_device
from tepbft.trusted.port import Identity

START_TIMEOUT_S = 30.0
THREADS = 8
T = TypeVar("T")


def each(layouts: Sequence[NodeLayout], action: Callable[[int, NodeLayout], T]) -> list[T]:
    """`action(index, layout)` for all, a few at a time; all are carried out, then an error is raised."""
    if not layouts:
        return []
    with ThreadPoolExecutor(min(THREADS, len(layouts))) as threads:
        futures = [threads.submit(action, index, layout) for index, layout in enumerate(layouts)]
    return [future.result() for future in futures]


def _with_device(layout: NodeLayout, action: Callable[[DeviceClient], T]) -> T:
    """Start the component if it does not run, and talk to it."""
    with ensure_device(layout.trusted, START_TIMEOUT_S) as device:
        return action(device)


def start_components(layouts: Sequence[NodeLayout]) -> list[Identity]:
    """Start those that do not run (from their sealed state, if there is one); who each of them is."""
    return each(layouts, lambda _, layout: _with_device(layout, lambda device: device.identity()))


def bind_components(layouts: Sequence[NodeLayout], genesis: Genesis) -> None:
    """Bind fresh components to the chain, each to the member with its index."""
    configuration = genesis.configuration()

    def bind(node: int, device: DeviceClient) -> None:
        if device.identity().tc_id != configuration.members[node].tc_id:
            raise TepbftError(
                f"the trusted component of node {node}",
                "it is not the one that the genesis names: it was restarted in between",
                "Make the cluster anew.",
            )
        try:
            device.provision(
                genesis.chain_id,
                node,
                configuration.number,
                configuration.digest(),
                configuration.floor,
                genesis.parameters.window,
            )
        except TrustedRefusal as refusal:
            raise TepbftError(
                f"the trusted component of node {node}",
                f"it declined to be bound to this chain ({refusal})",
                "Make the cluster anew.",
            ) from None

    each(layouts, lambda node, layout: _with_device(layout, lambda device: bind(node, device)))


def stop_components(layouts: Sequence[NodeLayout], *, quietly: bool = False) -> None:
    """Seal and stop those that run. `quietly` is for cleaning up: errors are of no interest then."""

    def seal(_: int, layout: NodeLayout) -> None:
        if device_pid(layout.trusted) is None:
            return
        with DeviceClient(layout.trusted) as device:
            device.seal()

    try:
        each(layouts, seal)  # side by side; what remains is to see the processes end
    except (TepbftError, TrustedRefusal) as error:
        if not quietly and not isinstance(error, TepbftError):
            raise TepbftError(
                "a trusted component", f"it was not sealed ({error})", "Look into its tc.log."
            ) from None
        if not quietly:
            raise
    finally:
        for layout in layouts:
            with contextlib.suppress(TepbftError):
                stop_device(layout.trusted)

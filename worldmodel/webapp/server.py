"""The web server of the page."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

import torch

from worldmodel.cli import warn
from worldmodel.cli.device import pick_device
from worldmodel.errors import UserError
from worldmodel.webapp.scenes import scene_choices


@dataclass(frozen=True)
class AppConfig:
    """Address of the page, and what it shows."""

    host: str = "127.0.0.1"
    """Address to listen on. With any other than this machine's own, others can use the page."""
    port: int = 8080
    """Port to listen on."""
    checkpoint: str | None = None
    """Bundled name, folder or hf:USER/NAME, instead of the one bundled for its environment."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"port is {self.port}: it must be 1 to 65535")


def serve(config: AppConfig) -> None:
    """Serve the page until Ctrl-C. Each tab has a session of its own; tabs share the weights.

    Raises:
        UserError: NiceGUI is not installed, or the checkpoint, device or address is unusable.
    """
    try:
        from nicegui import app, ui
    except ImportError:
        raise UserError("the page needs NiceGUI: pip install 'worldmodel[app]'") from None
    from worldmodel.webapp.page import Tab  # needs NiceGUI

    choices = scene_choices(config.checkpoint)
    pick_device(config.device)
    check_address(config.host, config.port)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # leave one core to the server
    tabs: set[Tab] = set()

    async def page() -> None:
        tab = Tab(choices, config.device)
        tabs.add(tab)

        def close() -> None:
            tabs.discard(tab)
            tab.close()

        ui.context.client.on_delete(close)
        await ui.context.client.connected()
        await tab.open()

    def close_all() -> None:
        for tab in tabs:
            tab.close()

    app.on_shutdown(close_all)
    address = f"[{config.host}]" if ":" in config.host else config.host
    print(f"open http://{address}:{config.port} in a browser; Ctrl-C ends the server", flush=True)
    ui.run(
        page,
        host=config.host,
        port=config.port,
        title="worldmodel",
        reload=False,
        show=False,
        show_welcome_message=False,
    )


def check_address(host: str, port: int) -> None:
    """Check that the address is free. Print a warning where other machines can reach it.

    Raises:
        UserError: the server cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as server:
            address = server.getsockname()[0]
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}): give another "
            "--port or --host"
        ) from None
    if not ipaddress.ip_address(address).is_loopback:
        warn(f"anyone who can reach {host} can use this page; it has no password")

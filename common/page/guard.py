"""Who may ask the page's server: a browser's own page of this address, and no other site's."""

import ipaddress
from typing import Mapping, Optional
from urllib.parse import urlsplit

UPLOAD = "application/octet-stream"  # a form or a beacon of another site cannot send it unasked
HEADERS = {  # of every answer; nothing may be loaded from, or sent to, another host
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def fault(method: str, headers: Mapping[str, str], own_name: str) -> Optional[str]:
    """Why a request is refused, in words; None if it is not.

    A browser may call this server ``own_name``, which is --host, localhost or an IP address. A name
    that an attacker's DNS points here (DNS rebinding) is none of them.
    """
    host = headers.get("host", "")
    if not _is_own(host, own_name):
        return "this server is not called so; open the address that app.py printed"
    if method == "POST":
        site = headers.get("sec-fetch-site", "same-origin")
        if site != "same-origin" or headers.get("origin", f"http://{host}") != f"http://{host}":
            return "another site's page asks; open the address that app.py printed"
        if headers.get("content-type") != UPLOAD:
            return f"send the picture's bytes as {UPLOAD}"
    return None


def _is_own(host, own_name):
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", own_name.lower()):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

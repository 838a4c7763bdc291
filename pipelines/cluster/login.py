"""Log in to Kubeflow as a browser does: through the redirects to Dex and its form, to a session cookie."""

from __future__ import annotations

import os
import re
from urllib.parse import urlencode, urlsplit

import requests

from pipelines.errors import UserError


def log_in(endpoint: str, username: str, password: str, timeout_s: tuple[float, float]) -> str:
    """Log in with a user of Dex's local database or a connector that asks for a password.

    Returns:
        The session's cookies, as a Cookie header has them; empty where the endpoint asks nobody to log in.

    Raises:
        UserError: the user name or the password is wrong.
        requests.RequestException: the endpoint is out of reach.
    """
    session = requests.Session()
    session.verify = os.environ.get("KFP_CA_CERT", True)
    page = session.get(endpoint, timeout=timeout_s)
    if page.status_code == 403:  # the sign-in page of oauth2-proxy, whose button leads on
        where = urlsplit(page.url)
        start = where._replace(path="/oauth2/start", query=urlencode({"rd": where.path}))
        page = session.get(start.geturl(), timeout=timeout_s)
    if not page.history:
        return _cookies(session)
    where = urlsplit(page.url)
    if where.path.endswith("/auth"):  # Dex lets choose how to log in: by its own database
        page = session.get(where._replace(path=f"{where.path}/local").geturl(), timeout=timeout_s)
    answer = session.post(page.url, data={"login": username, "password": password}, timeout=timeout_s)
    if not answer.history:  # Dex shows its form again
        raise UserError(f"{endpoint} does not accept KFP_USERNAME and KFP_PASSWORD")
    if re.search(r"/approval$", urlsplit(answer.url).path):
        session.post(answer.url, data={"approval": "approve"}, timeout=timeout_s)
    return _cookies(session)


def _cookies(session: requests.Session) -> str:
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)

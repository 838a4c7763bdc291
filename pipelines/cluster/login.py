"""Log in to Kubeflow as a browser does: through the redirects to Dex and its form, to a session cookie."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
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
    # With each request: requests lets REQUESTS_CA_BUNDLE take the place of a session's own.
    options: dict[str, Any] = {"timeout": timeout_s, "verify": ca_certificate() or True}
    page = session.get(endpoint, **options)
    if page.status_code == 403:  # the sign-in page of oauth2-proxy, whose button leads on
        where = urlsplit(page.url)
        start = where._replace(path="/oauth2/start", query=urlencode({"rd": where.path}))
        page = session.get(start.geturl(), **options)
    if not page.history:
        return _cookies(session)
    where = urlsplit(page.url)
    if where.path.endswith("/auth"):  # Dex lets choose how to log in: by its own database
        page = session.get(where._replace(path=f"{where.path}/local").geturl(), **options)
    _refuse_elsewhere(endpoint, page.url)
    answer = session.post(page.url, data={"login": username, "password": password}, **options)
    if not answer.history:  # Dex shows its form again
        raise UserError(f"{endpoint} does not accept KFP_USERNAME and KFP_PASSWORD")
    if re.search(r"/approval$", urlsplit(answer.url).path):
        session.post(answer.url, data={"approval": "approve"}, **options)
    return _cookies(session)


CA_VARIABLES = ("KFP_CA_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables with the file of certificate authorities, the first that is set counting: KFP's, and what companies set."""


def ca_certificate() -> str | None:
    """The file with the certificate authorities to trust; None where no variable gives one: then the usual ones are.

    Raises:
        UserError: there is no such file.
    """
    for name in CA_VARIABLES:
        path = os.environ.get(name)
        if path and not Path(path).is_file():
            raise UserError(f"{name}: expected the file of a certificate authority, found none at {path}")
        if path:
            return path
    return None


def _refuse_elsewhere(endpoint: str, page: str) -> None:
    """A password is posted to the endpoint's own host only, and never over http where the endpoint has https.

    Raises:
        UserError: the login page is somewhere else.
    """
    asked, found = urlsplit(endpoint), urlsplit(page)
    if found.hostname != asked.hostname or (asked.scheme, found.scheme) == ("https", "http"):
        raise UserError(
            f"{endpoint} leads to a login page at {found.scheme}://{found.hostname}, where no password is sent: "
            "log in with a browser and set KFP_COOKIES, or set KFP_TOKEN"
        )


def _cookies(session: requests.Session) -> str:
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)

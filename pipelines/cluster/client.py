"""The connection to Kubeflow Pipelines: authentication, time limits, and errors that say what to do.

Credentials come from the environment, never from the command line, where other users of the machine would see them:

- `KFP_TOKEN`: a bearer token;
- `KFP_COOKIES`: the session cookie of a logged-in browser, `name=value`;
- `KFP_USERNAME` and `KFP_PASSWORD`: log in as the Kubeflow login page does (Dex);
- nothing: the service account token that KFP mounts into pods, where there is one; else no credentials.

`KFP_CA_CERT` names the file with the certificate authority of the endpoint, else `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`
or `SSL_CERT_FILE`; `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are followed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import requests
import urllib3
from kfp.client import ServiceAccountTokenVolumeCredentials

from pipelines.cluster.login import CA_VARIABLES, ca_certificate, log_in
from pipelines.errors import UserError
from pipelines.timeouts import TIMEOUT_S

SUPPORTED = (2, 17)
"""The release of KFP that the pipelines are compiled for."""

_POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
_LOGIN = "set KFP_TOKEN, KFP_COOKIES, or KFP_USERNAME and KFP_PASSWORD"


@dataclass(frozen=True)
class Server:
    """What the health endpoint says."""

    version: str
    multi_user: bool


def normalise(endpoint: str) -> str:
    """The endpoint with a scheme and without a trailing slash."""
    endpoint = endpoint.strip().rstrip("/")
    if not endpoint:
        raise UserError("no endpoint: give --endpoint or set KF_PIPELINES_ENDPOINT")
    endpoint = endpoint if "://" in endpoint else f"https://{endpoint}"
    try:
        parts = urlsplit(endpoint)
        _ = parts.port  # which says now whether it is one
        is_address = bool(parts.hostname) and not re.search(r"\s", endpoint)
    except ValueError:
        is_address = False
    if not is_address:
        raise UserError(
            "--endpoint: expected an address such as https://kubeflow.example.com/pipeline, found something else"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not repeated here; as the endpoint it would stand in every line, and in links.
        raise UserError(
            "--endpoint: expected an address alone, found a password or a query in it: "
            "credentials come from KFP_TOKEN, KFP_COOKIES, or KFP_USERNAME and KFP_PASSWORD"
        )
    if parts.scheme not in {"http", "https"}:
        raise UserError(f"--endpoint: expected http(s)://, found {parts.scheme}://")
    return endpoint


def credentials(endpoint: str) -> dict[str, Any]:
    """The arguments of `kfp.Client` that authenticate, from the environment."""
    env = os.environ
    if token := _for_header("KFP_TOKEN"):
        return {"existing_token": token}
    if cookies := _for_header("KFP_COOKIES"):
        return {"cookies": cookies}
    if env.get("KFP_USERNAME") and env.get("KFP_PASSWORD"):
        with _network_errors(endpoint):
            return {"cookies": log_in(endpoint, env["KFP_USERNAME"], env["KFP_PASSWORD"], TIMEOUT_S)}
    if Path(env.get("KF_PIPELINES_SA_TOKEN_PATH", _POD_TOKEN)).exists():
        return {"credentials": ServiceAccountTokenVolumeCredentials()}
    return {}


def _for_header(name: str) -> str:
    """A variable's value without what is around it, such as the line break that ends a file.

    Raises:
        UserError: no header can hold it. It is not repeated: it is a secret.
    """
    value = os.environ.get(name, "").strip()
    if value and not (value.isascii() and value.isprintable()):
        raise UserError(
            f"{name}: expected printable ASCII characters, found others: a line break, or quotes of an editor"
        )
    return value


def check_server(endpoint: str, login: dict[str, Any]) -> Server:
    """Ask the endpoint for its health, with a time limit, before handing it to KFP's own client.

    Raises:
        UserError: it does not answer, refuses, or is not KFP.
    """
    headers = {}
    if token := login.get("existing_token"):
        headers["Authorization"] = f"Bearer {token}"
    elif "credentials" in login:
        configuration = kfp_server_api.Configuration()
        login["credentials"].refresh_api_key_hook(configuration)
        headers["Authorization"] = f"Bearer {configuration.api_key['authorization']}"
    if cookies := login.get("cookies"):
        headers["Cookie"] = cookies
    url = f"{endpoint}/apis/v2beta1/healthz"
    with _network_errors(endpoint):
        answer = requests.get(
            url, headers=headers, timeout=TIMEOUT_S, allow_redirects=False, verify=ca_certificate() or True
        )
    refuse_status(answer.status_code, answer.text, endpoint)
    try:
        health = answer.json()
        version, multi_user = str(health.get("tag_name", "unknown")), bool(health.get("multi_user"))
    except (ValueError, AttributeError):
        raise UserError(f"{endpoint} answers, but not as KFP does (Kubeflow's endpoint ends with /pipeline)") from None
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found and int(found[1]) != SUPPORTED[0]:
        raise UserError(
            f"{endpoint} is KFP {version}; the pipelines need KFP {SUPPORTED[0]}, from {SUPPORTED[0]}.{SUPPORTED[1]} on"
        )
    return Server(version, multi_user)


def too_old(server: Server) -> bool:
    """Whether the server is older than what the pipelines are compiled for."""
    found = re.match(r"v?(\d+)\.(\d+)", server.version)
    return bool(found) and (int(found[1]), int(found[2])) < SUPPORTED  # type: ignore[index]


def newer(server: Server, release: tuple[int, int]) -> bool:
    """Whether the server is newer than a release; a version that is none counts as the release."""
    found = re.match(r"v?(\d+)\.(\d+)", server.version)
    return bool(found) and (int(found[1]), int(found[2])) > release  # type: ignore[index]


def connect(endpoint: str, login: dict[str, Any], namespace: str) -> kfp.Client:
    """KFP's client, quiet, with time limits, and through the proxy of the environment, which it does not know itself.

    Raises:
        UserError: it cannot be set up, or asks the server something and gets no answer.
    """
    proxy = requests.utils.select_proxy(endpoint, requests.utils.get_environ_proxies(endpoint))
    if proxy:
        proxy = requests.utils.prepend_scheme_if_needed(proxy, "http")
    options = {"ssl_ca_cert": ca_certificate(), "proxy": proxy, **login}
    with explained(endpoint), quiet():
        client = kfp.Client(host=endpoint, namespace=namespace or "kubeflow", **options)
    rest = client._run_api.api_client.rest_client  # one for all of the client's services
    rest.pool_manager.request = partial(rest.pool_manager.request, redirect=False)  # it would end at a login page
    if proxy and (user := requests.utils.get_auth_from_url(proxy))[0]:
        headers = urllib3.make_headers(proxy_basic_auth=":".join(user))
        rest.pool_manager.proxy_headers = rest.pool_manager.connection_pool_kw["_proxy_headers"] = headers
    stock = rest.request

    def request(*args: Any, _request_timeout: Any = None, **kwargs: Any) -> Any:
        answer = stock(*args, _request_timeout=_request_timeout or TIMEOUT_S, **kwargs)
        _refuse_page(answer.data, endpoint)
        return answer

    rest.request = request
    return client


def _refuse_page(body: str | bytes, endpoint: str) -> None:
    """Raise an error where an answer is no object of JSON: of a page KFP's client would make an object without ids."""
    try:
        is_object = isinstance(json.loads(body), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise UserError(f"{endpoint} answers, but not as KFP does: is a login page or a proxy in the way? {_LOGIN}")


@contextlib.contextmanager
def explained(endpoint: str) -> Iterator[None]:
    """Turn what KFP's client raises into a one-line error."""
    try:
        with _network_errors(endpoint):
            yield
    except kfp_server_api.ApiException as err:
        refuse_status(err.status or 0, err.body or err.reason or "", endpoint)
        raise


def refuse_status(status: int, body: str, endpoint: str) -> None:
    """Raise an error that explains the server's status, unless it is a success."""
    if 200 <= status < 300:
        return
    said = _message(body)
    if 300 <= status < 400:
        raise UserError(f"{endpoint} asks for a login: {_LOGIN}")
    if status in (401, 403):
        raise UserError(f"{endpoint} refuses ({status}{said}): {_LOGIN}; in a multi-user Kubeflow also --namespace")
    if status == 404:
        raise UserError(
            f"{endpoint} does not know what was asked for (404{said}): Kubeflow's endpoint ends with /pipeline"
        )
    if status == 409:
        raise UserError(f"{endpoint}: the name is taken (409{said})")
    if status >= 500:
        raise UserError(
            f"{endpoint} failed ({status}{said}): see the log of the ml-pipeline deployment, then try again"
        )
    raise UserError(f"{endpoint} answered {status}{said}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what KFP's client prints, its warnings too."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _network_errors(endpoint: str) -> Iterator[None]:
    try:
        yield
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError) as err:
        raise _untrusted(endpoint, err) from err
    except requests.exceptions.ProxyError as err:
        raise _proxy_fails(endpoint, err) from err
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as err:
        raise UserError(
            f"{endpoint} does not answer in time: is the server overloaded, or a proxy in the way?"
        ) from err
    except urllib3.exceptions.MaxRetryError as err:
        if isinstance(err.reason, urllib3.exceptions.ReadTimeoutError):
            raise UserError(f"{endpoint} does not answer in time") from err
        if isinstance(err.reason, urllib3.exceptions.SSLError):
            raise _untrusted(endpoint, err.reason) from err
        if isinstance(err.reason, urllib3.exceptions.ProxyError):
            raise _proxy_fails(endpoint, err.reason) from err
        raise UserError(f"{endpoint} is out of reach ({_reason(err)}): is the port-forward running?") from err
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as err:
        raise UserError(f"{endpoint} is out of reach ({_reason(err)}): is the port-forward running?") from err


def _untrusted(endpoint: str, err: Exception) -> UserError:
    given = next(
        (f"{name}={os.environ[name]}" for name in CA_VARIABLES if os.environ.get(name)), "no file of authorities"
    )
    return UserError(
        f"{endpoint}: its certificate is not trusted with {given}: set KFP_CA_CERT to the file of the certificate "
        f"authority that signed it ({_reason(err)})"
    )


def _proxy_fails(endpoint: str, err: Exception) -> UserError:
    return UserError(
        f"{endpoint} is out of reach through the proxy: check HTTPS_PROXY, or set NO_PROXY ({_reason(err)})"
    )


def _reason(err: Exception) -> str:
    """The operating system's own words where there are any, else the first line; without passwords in addresses."""
    cause: Any = err
    for _ in range(10):  # errors wrap each other in several ways
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror.lower()
        inner = [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
        cause = next((one for one in inner if isinstance(one, BaseException)), None)
        if cause is None:
            break
    return re.sub(r"://\S*@", "://***@", (str(err).splitlines() or [type(err).__name__])[0])[:200]


def _message(body: str) -> str:
    """The server's message, from its JSON or its text, as `: …`."""
    with contextlib.suppress(ValueError, AttributeError):
        document = json.loads(body)
        body = document.get("message") or document.get("error_message") or document.get("error") or ""
    line = " ".join(str(body).split())[:200]
    return f": {line}" if line and "<html" not in line.lower() else ""

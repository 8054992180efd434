"""Run a job and read its results with a generated client: `python generated_client.py URL ADMIN_TOKEN`.

It is a program of its own: the client and its libraries are not those of the tests.
"""

from __future__ import annotations

import sys

from opsjobs_client import AuthenticatedClient, Client
from opsjobs_client.api.access import create_user, log_in
from opsjobs_client.api.executions import execute_job, list_results
from opsjobs_client.api.jobs import create_job
from opsjobs_client.models import (
    CommandAction,
    Execution,
    GrantDraft,
    Job,
    JobBody,
    LoginDraft,
    ResultPage,
    Role,
    SelectionDraft,
    Tokens,
    User,
    UserDraft,
)

PASSWORD = "correct horse battery staple"
url, admin_token = sys.argv[1:]

admin = AuthenticatedClient(url, admin_token, raise_on_unexpected_status=True)
new = UserDraft(name="ada", password=PASSWORD, grants=[GrantDraft(role=Role.DEVELOPER)])
user = create_user.sync(client=admin, body=new)
assert isinstance(user, User), user

login = LoginDraft(username="ada", password=PASSWORD)
tokens = log_in.sync(client=Client(url, raise_on_unexpected_status=True), body=login)
assert isinstance(tokens, Tokens), tokens

ada = AuthenticatedClient(url, tokens.access_token, raise_on_unexpected_status=True)
body = JobBody(
    name="greet",
    actions=[CommandAction(command="echo hello")],
    targets=SelectionDraft(ids=["lab-1"]),
)
job = create_job.sync(client=ada, body=body)
assert isinstance(job, Job), job

execution = execute_job.sync(str(job.id), client=ada, prefer="wait=60")
assert isinstance(execution, Execution), execution

results = list_results.sync(str(execution.id), client=ada)
assert isinstance(results, ResultPage), results
for result in results.items:
    sys.stdout.write(f"{execution.status} {result.target.name} {result.exit_code} {result.stdout}")

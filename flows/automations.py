"""What Prefect does by itself about runs that vanish, are late or fail.

Each is made once; what a person then changes on the page stays.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation, EventTrigger, Posture
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CancelFlowRun, ChangeFlowRunState, SendNotification
from prefect.events.schemas.events import ResourceSpecification

ALERTS = "k2-alerts"
"""Name of the notification block (Slack, mail, webhook, …) that is notified, if somebody makes one on the page."""
RUNS: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}
ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
HEARTBEAT = "prefect.flow-run.heartbeat"
MESSAGE = """{{ flow.name }} / {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}
{{ flow_run|ui_url }}"""


def make_automations() -> None:
    """Make those that are not there yet."""
    wanted = [vanished(), late()]
    with get_client(sync_client=True) as client:
        blocks = [block for block in client.read_block_documents() if block.name == ALERTS]
        wanted += [alert(block.id) for block in blocks[:1]]
        known = {found.name for automation in wanted for found in client.read_automations_by_name(automation.name)}
    for automation in wanted:
        if automation.name not in known:
            automation.create()


def vanished() -> Automation:
    """A run whose process was killed says nothing more, and would stay "Running" for ever."""
    return Automation(
        name="k2: a run that says nothing for two minutes has crashed",
        description="Its process was killed or its machine is gone. Start it again: it continues from its checkpoints.",
        trigger=EventTrigger(
            match=ResourceSpecification(RUNS),
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDS},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=120),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no sign of life for two minutes")],
    )


def late() -> Automation:
    """Scheduled runs that wait behind a long one would all start when it ends, to find nothing to do."""
    return Automation(
        name="k2: a scheduled run that is late by an hour is cancelled",
        description="The next one does the same work. A run that a person started waits for its turn.",
        trigger=EventTrigger(
            match=ResourceSpecification(RUNS),
            match_related=ResourceSpecification({"prefect.resource.id": "prefect.tag.auto-scheduled"}),
            after={"prefect.flow-run.Late"},
            expect={"prefect.flow-run.Pending", *ENDS},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(hours=1),
        ),
        actions=[CancelFlowRun()],
    )


def alert(block_id: UUID) -> Automation:
    """Notify a person about runs that failed, crashed or are late."""
    return Automation(
        name="k2: notify about failed, crashed and late runs",
        description=f"By the notification block {ALERTS}.",
        trigger=EventTrigger(
            match=ResourceSpecification(RUNS),
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.Late"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[SendNotification(block_document_id=block_id, subject="K2: {{ flow_run.name }}", body=MESSAGE)],
    )


if __name__ == "__main__":
    make_automations()

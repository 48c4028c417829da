"""The register of a study that several drivers share: who drives, who holds which trial, what came of it.

Three small tables beside Optuna's, in the same PostgreSQL database. A trial is claimed before it runs and decided
once, whoever else may have run it: what a driver that died held is taken up by another one, and a driver that was only
thought dead finds its claim gone.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, text

from search.database import Patience, opened, translated, turn
from search.register_tables import ALIVE, DECIDE, ENTER, LEFT_ALONE, METADATA

logger = logging.getLogger(__name__)

#: A driver that has not been heard of for so many seconds counts as dead; it is heard of six times as often.
GRACE = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Agreement:
    """What all drivers of a study go by: the first one's word counts.

    Args:
        identity: Tells the study from another one of its name.
        file: The first driver's study file as TOML, without its storage.
        task_hash: What the task is made of.
        baseline: The measures of the network before compression.
        judged: The constraints by which Optuna was told of the trials.
    """

    identity: str
    file: str = ""
    task_hash: str = ""
    baseline: Mapping[str, float] = field(default_factory=dict)
    judged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """What was decided: a trial's result, or a finalist's that was confirmed.

    Args:
        key: A trial's number in digits, or the key of a confirmation.
        number: The trial's number, or None.
        text: The result as its file holds it.
    """

    key: str
    number: int | None
    text: str


class Register:
    """One study's part of the register, as one driver sees it. Safe to be used from several threads.

    Every call waits for a server that is gone as long as `patience` has it.

    Args:
        url: The database, in PostgreSQL.
        study: The study's name.
        driver: This driver; the same in every run of its home.
        place: Where it is, for people: ``host:/home``.
        grace: Seconds of silence after which others take this driver for dead.

    Raises:
        StorageError: From every call, if the database cannot be used.
    """

    def __init__(self, url: str, study: str, driver: str, place: str, grace: float = GRACE) -> None:
        self.url, self.driver = url, driver
        self._engine = opened(url)
        self._names: dict[str, object] = {"study": study, "me": driver, "place": place, "grace": grace}
        self._study, self._grace = study, grace
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beats, name="pleach-register", daemon=True)
        #: No waiting at first: what is wrong from the start is more likely a wrong address.
        self.patience = Patience(0.0)

    # -- who drives -------------------------------------------------------------------------------------------------

    def join(self, own: Agreement, entries: Collection[Entry] = ()) -> Agreement:
        """Be one of the study's drivers from now on, and learn what was agreed before.

        Who comes first, whose word is `own`, brings along what is decided already; nobody sees the one without the
        other. Where a living driver of this one's name is at another place, this home is a copy of that one's: it
        drives under another name then.
        """

        def work(connection: Connection) -> str:
            METADATA.create_all(connection)
            begun = self._one(
                connection,
                "insert into pleach_studies (study, agreement) values (:study, :own) on conflict do nothing",
                own=json.dumps(asdict(own)),
            )
            for entry in entries if begun.rowcount else ():
                self._entered(connection, ENTER, entry)
            if self._one(connection, f"{ALIVE} and driver = :me and place <> :place").first() is not None:
                self.driver = self._names["me"] = uuid.uuid4().hex
            self._beat(connection)
            return str(self._one(connection, "select agreement from pleach_studies where study = :study").scalar())

        agreed = self._in_turn(work, "schema")
        if not self._beating.is_alive():
            self._beating.start()
        return Agreement(**json.loads(agreed))

    def agree(self, baseline: Mapping[str, float], judged: Mapping[str, str] | None = None) -> Agreement:
        """Add measures of the baseline that nobody has agreed on yet, and by which constraints trials are judged."""

        def work(connection: Connection) -> Agreement:
            found = self._one(connection, "select agreement from pleach_studies where study = :study").scalar()
            before = Agreement(**json.loads(found))
            agreed = replace(
                before,
                baseline={**baseline, **before.baseline},
                judged=before.judged if judged is None else dict(judged),
            )
            change = "update pleach_studies set agreement = :agreed where study = :study"
            self._one(connection, change, agreed=json.dumps(asdict(agreed)))
            return agreed

        return self._in_turn(work)

    def others(self) -> list[str]:
        """Where the study's other drivers are, as far as they live."""
        query = f"select place from pleach_drivers where study = :study and driver <> :me and driver in ({ALIVE})"
        return [str(place) for (place,) in self._do(lambda c: self._one(c, query).all())]

    def leave(self) -> bool:
        """Hold nothing any more and be no driver; returns whether this one was the last."""

        def work(connection: Connection) -> bool:
            free = "update pleach_claims set driver = null where study = :study and driver = :me and result is null"
            self._one(connection, free)
            gone = "update pleach_drivers set beat = '-infinity' where study = :study and driver = :me"
            self._one(connection, gone)
            return self._one(connection, f"{ALIVE} and driver <> :me").first() is None

        self._ended.set()
        return self._in_turn(work)

    def close(self) -> None:
        """End without a word, as far as the others can tell: they find out by themselves."""
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join(1.0)
        self._engine.dispose()

    def _beats(self) -> None:
        while not self._ended.wait(self._grace / 6):
            try:
                with translated(self.url), self._engine.begin() as connection:
                    if not self._ended.is_set():
                        self._beat(connection)
            except OSError as error:  # the driver's own calls say so, and wait
                logger.debug("no sign of life: %s", error)

    def _beat(self, connection: Connection) -> None:
        self._one(
            connection,
            "insert into pleach_drivers (study, driver, place, grace, beat) "
            "values (:study, :me, :place, :grace, clock_timestamp()) "
            "on conflict (study, driver) do update set place = :place, grace = :grace, beat = clock_timestamp()",
        )

    # -- who holds what ---------------------------------------------------------------------------------------------

    def claim(self, limit: int, fresh: Callable[[Collection[int]], int | None]) -> int | None:
        """Claim a trial that nobody has claimed before, as long as fewer than `limit` are claimed.

        Args:
            limit: How many trials the study is to have.
            fresh: Gives the number of a trial that is not among those claimed, or None; asked by one driver at a time.
        """

        def work(connection: Connection) -> int | None:
            numbers = "select number from pleach_claims where study = :study and number is not null"
            claimed = {int(number) for (number,) in self._one(connection, numbers)}
            number = fresh(claimed) if len(claimed) < limit else None
            if number is not None:
                add = "insert into pleach_claims (study, key, number, driver) values (:study, :key, :number, :me)"
                self._one(connection, add, key=str(number), number=number)
            return number

        return self._in_turn(work)

    def take_up(self, held: Collection[int]) -> int | None:
        """Take the lowest trial that was cut off: held by nobody, by a dead driver, or by this one before it died.

        Args:
            held: What this driver has in hand.
        """
        change = f"""update pleach_claims set driver = :me where study = :study and key = (
            select key from pleach_claims where study = :study and number is not null and result is null
            and ((driver = :me and not number = any(:held)) or {LEFT_ALONE})
            order by driver is distinct from :me, number limit 1 for update skip locked) returning number"""
        found = self._do(lambda c: self._one(c, change, held=list(held)).first())
        return None if found is None else int(found.number)

    def take(self, key: str) -> bool:
        """Claim what is no trial, a finalist's confirmation, unless a living driver holds it or it is decided."""
        change = f"""insert into pleach_claims (study, key, driver) values (:study, :key, :me)
            on conflict (study, key) do update set driver = :me where pleach_claims.result is null
            and (pleach_claims.driver = :me or pleach_claims.driver is null
                 or pleach_claims.driver not in ({ALIVE})) returning key"""
        return self._do(lambda c: self._one(c, change, key=key).first()) is not None

    def mine(self) -> set[int]:
        """The trials that this driver has decided, and those whose drivers are gone."""
        query = (
            f"select number from pleach_claims where study = :study and number is not null "
            f"and (driver = :me or {LEFT_ALONE})"
        )
        return {int(number) for (number,) in self._do(lambda c: self._one(c, query).all())}

    def place_of(self, key: str) -> str | None:
        """Where the driver is, or was, that holds or decided something."""
        query = (
            "select place from pleach_claims join pleach_drivers using (study, driver) "
            "where study = :study and key = :key"
        )
        found = self._do(lambda c: self._one(c, query, key=key).first())
        return None if found is None else str(found.place)

    # -- what came of it --------------------------------------------------------------------------------------------

    def decide(self, key: str, result: str) -> int | None:
        """Enter what came of something this driver holds.

        Returns:
            How many trials are decided with it; None where the claim is another driver's by now, which is heard.
        """
        return self._in_turn(lambda c: self._entered(c, DECIDE, Entry(key, None, result)))

    def enter(self, entry: Entry) -> bool:
        """Enter a result that lies in this home from an earlier run; False where another driver's is in the way."""
        return self._in_turn(lambda c: self._entered(c, ENTER, entry)) is not None

    def _entered(self, connection: Connection, change: str, entry: Entry) -> int | None:
        last = self._one(
            connection, "select coalesce(max(turn), 0) from pleach_claims where study = :study"
        ).scalar_one()
        if self._one(connection, change, **asdict(entry), turn=last + 1).rowcount == 0:
            query = "select result from pleach_claims where study = :study and key = :key and driver = :me"
            # The same text: it was entered before, and only the answer was lost.
            if self._one(connection, query, key=entry.key).scalar() != entry.text:
                return None
        count = "select count(result) from pleach_claims where study = :study and number is not null"
        return int(self._one(connection, count).scalar_one())

    def news(self, since: int, known: Callable[[str, str], bool] = lambda key, md5: False) -> tuple[int, list[Entry]]:
        """What was decided after the first `since` things, by whomever; and how many there are now.

        Args:
            since: 0 for everything.
            known: Whether a key's result of this MD5 is at hand already.
        """
        later = "from pleach_claims where study = :study and turn > :since order by turn"
        heads = f"select key, turn, md5(result) as md5 {later}"
        bodies = "select key, number, result from pleach_claims where study = :study and key = any(:keys) order by turn"

        def work(connection: Connection) -> tuple[int, list[Entry]]:
            found: list[Row[Any]] = list(self._one(connection, heads, since=since))
            wanted = [row.key for row in found if not known(row.key, row.md5)]
            rows = self._one(connection, bodies, keys=wanted) if wanted else ()
            return (found[-1].turn if found else since), [Entry(row.key, row.number, row.result) for row in rows]

        return self._do(work)

    # -- talking to the server --------------------------------------------------------------------------------------

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """One driver of the study at a time.

        Raises:
            UnreachableError: If the server was lost meanwhile: what was done may have to be done again.
        """
        with translated(self.url), turn(self._engine, f"{self._study}/{name}"):
            yield

    def _in_turn(self, work: Callable[[Connection], T], name: str = "claims") -> T:
        """Do something whole or not at all, one driver at a time."""
        whose = name if name == "schema" else f"{self._study}/{name}"

        def once() -> T:
            with translated(self.url), turn(self._engine, whose) as connection:
                return work(connection)

        return self.patience(once)

    def _do(self, work: Callable[[Connection], T]) -> T:
        def once() -> T:
            with translated(self.url), self._engine.begin() as connection:
                return work(connection)

        return self.patience(once)

    def _one(self, connection: Connection, statement: str, **values: object) -> Any:
        wanted = text(statement)
        known = {**self._names, **values}
        return connection.execute(wanted, {name: known[name] for name in wanted._bindparams})

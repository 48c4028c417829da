"""The tables of a shared study's register, and the statements that are longer than a line."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Float, Integer, MetaData, Table, Text

METADATA = MetaData()
STUDIES = Table(
    "pleach_studies",
    METADATA,
    Column("study", Text, primary_key=True),
    Column("agreement", Text, nullable=False),
)
DRIVERS = Table(
    "pleach_drivers",
    METADATA,
    Column("study", Text, primary_key=True),
    Column("driver", Text, primary_key=True),
    Column("place", Text, nullable=False),
    Column("grace", Float, nullable=False),
    Column("beat", DateTime(timezone=True), nullable=False),
)
#: `number` is a trial's, and none where a finalist is confirmed; `turn` counts what was decided, in this order.
CLAIMS = Table(
    "pleach_claims",
    METADATA,
    Column("study", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("number", Integer),
    Column("driver", Text),
    Column("turn", Integer),
    Column("result", Text),
)

#: Drivers that were heard of lately. Right after the server's own start nobody was heard of, and nobody is dead.
ALIVE = """select driver from pleach_drivers where study = :study and (
    beat > clock_timestamp() - make_interval(secs => grace)
    or (beat > '-infinity' and pg_postmaster_start_time() > clock_timestamp() - make_interval(secs => grace)))"""
LEFT_ALONE = f"(driver is null or (driver <> :me and driver not in ({ALIVE})))"

#: A result of what is held, and one that lies in a home from an earlier run.
DECIDE = """update pleach_claims set result = :text, turn = :turn
    where study = :study and key = :key and driver = :me and result is null"""
ENTER = """insert into pleach_claims (study, key, number, driver, turn, result)
    values (:study, :key, :number, :me, :turn, :text)
    on conflict (study, key) do update set result = :text, turn = :turn
    where pleach_claims.driver = :me and pleach_claims.result is null"""

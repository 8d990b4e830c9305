"""What an edge reads of its machine, from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wardround.learn.condition import Condition, ConditionReader, read_condition

ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wwan0\t00000000\t0100A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0
{interface}\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
{interface}\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0
"""
WIRELESS = """\
Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
 wlan0: 0000   47.  {level}  -256        0      0      0      0     21        0
"""


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def battery(status: str, capacity: int, name: str = "BAT0", **more: str) -> dict[str, str]:
    facts = {"type": "Battery", "status": status, "capacity": str(capacity), **more}
    return {f"sys/class/power_supply/{name}/{key}": f"{value}\n" for key, value in facts.items()}


def mains(online: int) -> dict[str, str]:
    return {"sys/class/power_supply/AC/type": "Mains\n", "sys/class/power_supply/AC/online": f"{online}\n"}


@pytest.mark.parametrize(
    ("files", "charging", "level"),
    [
        ({}, True, None),
        (mains(1), True, None),
        (battery("Discharging", 71), False, 71.0),
        (battery("Charging", 40), True, 40.0),
        (battery("Full", 100), True, 100.0),
        (battery("Not charging", 80) | mains(1), True, 80.0),
        (battery("Not charging", 80) | mains(0), False, 80.0),
        (battery("Discharging", 90) | battery("Charging", 15, "BAT1"), False, 15.0),
        (battery("Discharging", 5, "hidpp_battery_0", scope="Device"), True, None),
    ],
)
def test_power(tmp_path, files, charging, level):
    found = read_condition(machine(tmp_path, files))
    assert (found.charging, found.battery) == (charging, level)


@pytest.mark.parametrize(
    ("interface", "level", "network", "signal", "metered"),
    [
        ("wlan0", "-63.", "wifi", -63.0, False),
        ("wlan0", "35.", "wifi", None, False),
        ("eth0", "-63.", "wired", None, False),
        ("wwan1", "-63.", "wired", None, True),
    ],
)
def test_network(tmp_path, interface, level, network, signal, metered):
    files = {"proc/net/route": ROUTE.format(interface=interface), "proc/net/wireless": WIRELESS.format(level=level)}
    found = read_condition(machine(tmp_path, files), metered=("wwan*",))
    assert (found.network, found.signal_dbm, found.metered) == (network, signal, metered)


def test_nothing_that_stands_in_a_file_stops_it(tmp_path):
    files = {"proc/net/route": "x\n\x01 00000000", "proc/net/wireless": "a\nb\nwlan0", "proc/stat": "cpu a b"} | battery("?", 0)
    machine(tmp_path, files | {"sys/class/power_supply/BAT0/capacity": "many"})
    assert ConditionReader(tmp_path).read() == Condition(True, None, "", None, False, 0.0)


def stat(busy: int, idle: int) -> dict[str, str]:
    return {"proc/stat": f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\nintr 1\n"}


def test_the_load_is_what_others_than_training_take(tmp_path):
    reader = ConditionReader(machine(tmp_path, stat(1_000, 1_000)))
    machine(tmp_path, stat(1_050, 1_150))
    assert reader.read().load == pytest.approx(0.25)
    machine(tmp_path, stat(5_050, 1_150))  # a training takes all there is
    assert reader.read(at_work=True).load == pytest.approx(0.25)
    machine(tmp_path, stat(5_050, 31_150))  # five minutes of nothing
    assert reader.read().load < 0.01


def test_this_machine_can_be_read():
    reader = ConditionReader()
    assert 0.0 <= reader.read().load <= 1.0

"""docs/images/overview.png made anew: the Overview at the end of a demo, in Chromium (`make picture`)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).parents[2] / "docs" / "images" / "overview.png"
SIGN_IN = re.compile(r"The console: (\S+)\s+sign in as oncall with (\S+)")


def main() -> None:
    """Run the demo, sign in, look."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "wardround.cli.main", "demo", "--stay", "--folder", f"{folder}/demo"]
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            shoot(chromium, *told(demo))
        finally:
            demo.terminate()
            demo.wait(60)
    print(OUT)


def told(demo: subprocess.Popen[str]) -> tuple[str, str]:
    """The console's address and the password, once the demo says them."""
    said = ""
    for line in demo.stdout or ():
        print(line, end="")
        said = f"{said.rstrip()} {line.strip()}"[-400:]
        if found := SIGN_IN.search(said):
            return found[1], found[2]
    sys.exit("the demo ended before it said where its console is")


def shoot(chromium: str, address: str, password: str) -> None:
    """The first screen of the one who is on call."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light", ignore_https_errors=True)
        page.goto(address)
        page.get_by_label("Name").fill("oncall")
        page.get_by_label("Password").fill(password)
        page.keyboard.press("Enter")
        page.get_by_text("samples arriving").first.wait_for(timeout=60_000)
        page.screenshot(path=OUT)
        browser.close()


if __name__ == "__main__":
    main()

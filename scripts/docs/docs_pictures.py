"""Takes the pictures of the front page from a report: `python scripts/docs/docs_pictures.py FOLDER`.

FOLDER keeps a simulated study and the runs. Needs playwright and a Chromium; the pictures go to docs/pictures.
"""

import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parents[2] / "docs/pictures"
COMMANDS = """
simulate study --seed 3 --samples 240 --asvs 240 --subjects 48
evaluate --table study/table.biom --tree study/tree.nwk --metadata study/metadata.tsv --metadata-column acidity
  --group-column subject --repeats 1 --jobs 2 --keep-models --output-dir compared
explain --what importance --evaluation compared --learner kernel --taxonomy study/taxonomy.tsv --output-dir why
report compared why --output report.html
"""
SHOWN = {
    "verdict": "#verdict",
    "scores": "#scores figure:nth-of-type(1)",
    "against_true": "#against-true figure:nth-of-type(1)",
    "ordination": "#ordination figure:nth-of-type(1)",
    "importance": "#importance figure:nth-of-type(1)",
    "coverage": "#coverage figure:nth-of-type(1)",
}
"""Picture: where it is on the page."""
SCHEMES = ("light", "dark")
COLOURS = 32


def make_report(folder: Path) -> Path:
    """Run the commands; what an earlier try left is taken as it is."""
    page = folder / "report.html"
    if not page.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for command in COMMANDS.replace("\n  ", " ").strip().splitlines():
            subprocess.run([sys.executable, "-m", "aam.cli", *command.split()], cwd=folder, check=True)
    return page


def take(page: Any, scheme: str) -> None:
    """Photograph what is shown, in few colours, as flat drawings have few."""
    for name, selector in SHOWN.items():
        shot = Image.open(BytesIO(page.locator(selector).first.screenshot()))
        drawn = shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        drawn.save(PICTURES / f"{name}_{scheme}.png", optimize=True)


def main(folder: Path) -> None:
    """Make the report and take its pictures in both schemes."""
    report = make_report(folder)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in SCHEMES:
            page = browser.new_page(
                viewport={"width": 760, "height": 900}, color_scheme=scheme, device_scale_factor=1.5
            )
            page.goto(report.resolve().as_uri())
            page.add_style_tag(content='a[href="#top"] { display: none }')
            take(page, scheme)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

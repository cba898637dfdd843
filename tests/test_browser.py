"""A real browser in a real JupyterLab: notebook 02 runs, and its panel answers to a slider and a text."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no Chromium or Chrome with its chromedriver on this machine", allow_module_level=True)

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
By = pytest.importorskip("selenium.webdriver.common.by").By
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys

# What a screen reader has of the panel: names of what can be set, texts of pictures, parts that are read out.
HEARD = """const all = query => [...arguments[0].querySelectorAll(query)];
return [all('[role=slider], select, input').map(e => e.ariaLabel || e.labels?.[0]?.textContent),
all('img').map(e => e.alt), all('[aria-live=polite]').length]"""
NOTED = """const panel = arguments[0], before = panel.offsetHeight;
panel.querySelector(".nibkit-message > div").innerHTML = `<div class="nibkit-note">${'a note '.repeat(40)}</div>`;
return [panel.offsetHeight - before, panel.scrollWidth - panel.clientWidth]"""

NOTE = By.CLASS_NAME, "nibkit-note"


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on a free port whose root holds a copy of notebook 02."""
    root, home = tmp_path / "root", tmp_path / "home"
    (root / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "02_single_example.ipynb", root / "notebooks")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    places = {"RUNTIME": "JUPYTER_RUNTIME_DIR", "config": "JUPYTER_CONFIG_DIR", "ipython": "IPYTHONDIR"}
    places |= {"settings": "JUPYTERLAB_SETTINGS_DIR", "workspaces": "JUPYTERLAB_WORKSPACES_DIR"}
    env = os.environ | {name: str(home / folder) for folder, name in places.items()}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env.pop("MPLBACKEND", None)
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port=0", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    log = open(tmp_path / "lab.log", "w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not (found := list((home / "RUNTIME").glob("jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "lab.log").read_text()[-2000:]
            time.sleep(0.1)
        yield json.loads(found[0].read_text())["url"]
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-first-run",
        "window-size=1500,1300",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_a_slider_and_a_text_change_the_picture(lab, browser):
    wait = WebDriverWait(browser, 120, ignored_exceptions=[Exception])
    browser.get(f"{lab}lab/tree/notebooks/02_single_example.ipynb?reset")
    ready = "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
    # a notebook that nobody has touched is not the current one in a browser without a window's focus
    wait.until(lambda b: b.find_element(By.CSS_SELECTOR, ".jp-Notebook").click() or True)
    wait.until(lambda b: b.execute_script(ready) == "idle")
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    panel = wait.until(lambda b: b.find_element(By.CLASS_NAME, "nibkit-panel"))

    def answered(before=None):
        """The map, of an answer that is complete."""
        *_, image = panel.find_elements(By.CSS_SELECTOR, ".nibkit-pictures img")
        complete = not (panel.find_elements(By.CLASS_NAME, "nibkit-busy") or panel.find_elements(*NOTE))
        return image.get_attribute("src") not in (None, before) and complete and image.get_attribute("src")

    shown = [wait.until(lambda b: answered())]
    assert shown[0].startswith("data:image/png;base64,")
    wait.until(lambda b: b.execute_script(ready) == "idle")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
    slider = next(s for s in panel.find_elements(By.CLASS_NAME, "widget-slider") if s.text.startswith("Layer"))
    handle = slider.find_element(By.CSS_SELECTOR, ".noUi-handle")
    ActionChains(browser).click(handle).send_keys(Keys.ARROW_LEFT).perform()
    shown.append(wait.until(lambda b: answered(shown[-1])))
    text = panel.find_element(By.CSS_SELECTOR, ".widget-text input")
    text.send_keys(Keys.CONTROL, "a")
    text.send_keys("a dog", Keys.ENTER)
    shown.append(wait.until(lambda b: answered(shown[-1])))
    assert len(set(shown)) == 3
    wait.until(lambda b: "dog" in panel.text and "cat" not in panel.find_element(By.CLASS_NAME, "nibkit-words").text)
    kept = ROOT / "runs" / "browser" / "explorer.png"
    kept.parent.mkdir(parents=True, exist_ok=True)
    assert panel.screenshot(str(kept))

    names, pictures, live = browser.execute_script(HEARD, panel)
    assert {"Layer", "Text", "Method", "object 1", "object 1 across"} <= set(names) and all(names) and all(pictures)
    assert len(pictures) == live == 2
    for width in (1500, 420):  # a note moves nothing, and nothing is cut off
        size = {"width": width, "height": 1300, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # a window itself is never that narrow
        wait.until(lambda b: b.execute_script("return innerWidth") == width and panel.size["width"] < width)
        assert browser.execute_script(NOTED, panel) == [0, 0]

"""The panel's looks, and what ipywidgets has no trait for."""

# Sliders' handles and read-outs have no names for screen readers, and what changes is not read out, unless a script
# sets both: when the style sheet is loaded, and whenever a part of the panel is drawn.
NAMES = """
const panel = this.closest('.nibkit-panel');
const name = () => {
  for (const slider of panel.querySelectorAll('.widget-slider, .widget-hslider'))
    for (const part of slider.querySelectorAll('.noUi-handle, .ui-slider-handle, .widget-readout'))
      part.setAttribute('aria-label', slider.querySelector('.widget-label').textContent);
  for (const live of panel.querySelectorAll('.nibkit-live'))
    live.setAttribute('aria-live', 'polite');
};
new MutationObserver(name).observe(panel, {childList: true, subtree: true});
name();
"""

STYLE = f"""<style onload="{NAMES}">
.nibkit-pictures {{ display: flex; flex-wrap: wrap-reverse; align-items: flex-end; gap: 8px 12px; }}
.nibkit-pictures figure {{ flex: 1 1 140px; max-width: 360px; margin: 0; }}
.nibkit-pictures img {{ width: 100%; height: auto; display: block; }}
.nibkit-pictures figcaption {{ font-size: 13px; line-height: 1.4; opacity: .75; padding-top: 4px; }}
.nibkit-bar {{ height: 12px; margin-top: 4px; }}
.nibkit-ends {{ display: flex; justify-content: space-between; gap: 6px; font-size: 12px; line-height: 1.4; }}
.nibkit-words {{ display: flex; flex-wrap: wrap; align-items: center; gap: 4px; padding: 2px 0 6px; }}
.nibkit-words span {{ font-size: 15px; line-height: 1.25; text-align: center; border-radius: 4px; padding: 3px 8px; }}
.nibkit-words small {{ display: block; font-size: 12px; font-variant-numeric: tabular-nums; }}
.nibkit-words em {{ font-size: 12px; font-style: normal; opacity: .75; padding-left: 4px; }}
.nibkit-facts {{ border-collapse: collapse; font-size: 13px; line-height: 1.4; font-variant-numeric: tabular-nums; }}
.nibkit-facts td, .nibkit-facts th {{ padding: 2px 16px 2px 0; text-align: left; vertical-align: top; }}
.nibkit-facts th {{ font-weight: normal; opacity: .75; }}
.nibkit-facts small {{ display: block; font-size: 12px; line-height: 1.2; }}
.nibkit-busy {{ opacity: .35; transition: opacity .2s .4s; }}
.nibkit-message {{ min-height: 28px; }}
.nibkit-message > div {{ min-width: 0; }}
.nibkit-note {{ font-size: 13px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }}
.nibkit-note {{ animation: nibkit-come .2s .4s both; }}
@keyframes nibkit-come {{ from {{ opacity: 0; }} to {{ opacity: .75; }} }}
.nibkit-error {{ border-left: 4px solid #c0392b; background: #c0392b1a; padding: 2px 12px; font-size: 14px; }}
.nibkit-aloud, .nibkit-slot .widget-label {{ position: absolute; width: 1px; height: 1px; overflow: hidden; }}
.nibkit-aloud, .nibkit-slot .widget-label {{ clip-path: inset(50%); }}
.nibkit-help {{ font-size: 13px; line-height: 1.4; }}
.nibkit-help summary {{ cursor: pointer; }}
.nibkit-help dt, .nibkit-help dd {{ float: none; width: auto; margin: 0 0 0 1em; }}
</style>"""

HELP = """<details class="nibkit-help"><summary>What the controls do</summary><dl>
<dt>Picture and text</dt><dd>What the model compares; a text is read when you press Enter. “a scene to edit” lets
you put animals in and take them away.</dd>
<dt>Method</dt><dd>nib is the paper’s; the others are its baselines, newer ones, and controls.</dd>
<dt>Rule</dt><dd>How nib’s integral is computed. riemann: the published sum. gauss: as many terms, at better places.
exact: to 1 %; carry and norm are its two parts.</dd>
<dt>Layer</dt><dd>The blocks of the model that come before the bottleneck; the paper’s is 9.</dd>
<dt>Steps</dt><dd>Terms of the sum. More take longer.</dd>
<dt>Scores</dt><dd>signed: what speaks for the text and what against it. heat: from the lowest score, dark, to the
highest; it is what the confidence metrics show the model.</dd>
<dt>Overlay</dt><dd>How much the scores cover the picture.</dd>
</dl></details>"""

// Gradio calls every drop zone "Click to upload or drop files": each gets the name of its
// field, also after a file was removed, when the zone is drawn again.
() => {
  const rename = () => {
    for (const block of document.querySelectorAll(".hk-drop")) {
      const label = block.querySelector("label")?.textContent.trim();
      if (!label) continue;
      const name = `${label}: choose a file, or drop one here`;
      for (const field of block.querySelectorAll("button[aria-dropeffect], input[type=file]"))
        if (field.getAttribute("aria-label") !== name) field.setAttribute("aria-label", name);
    }
  };
  new MutationObserver(rename).observe(document.body, { childList: true, subtree: true });
  rename();
}

// Gradio names every drop zone "Click to upload or drop files", and the button that empties
// it "Clear": each gets the name of its field, also when the zone is drawn again.
() => {
  const rename = () => {
    for (const block of document.querySelectorAll(".hk-drop")) {
      const label = block.querySelector("label")?.textContent.trim();
      const name = (selector, text) => {
        for (const field of block.querySelectorAll(selector))
          if (field.getAttribute("aria-label") !== text) field.setAttribute("aria-label", text);
      };
      if (!label) continue;
      name("button[aria-dropeffect], input[type=file]", `${label}: choose a file, or drop one here`);
      name("button[title=Clear]", `${label}: remove the file`);
    }
  };
  new MutationObserver(rename).observe(document.body, { childList: true, subtree: true });
  rename();
}

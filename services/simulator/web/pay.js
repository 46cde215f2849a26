// Counts down, and asks for the page anew when the time is over. A button pressed once stays pressed.
const timer = document.querySelector('[role="timer"]');
if (timer) {
  const endMs = performance.now() + Number(timer.dataset.leftMs);
  const tick = () => {
    const leftS = Math.max(0, Math.ceil((endMs - performance.now()) / 1000));
    timer.textContent = `${Math.floor(leftS / 60)}:${String(leftS % 60).padStart(2, '0')}`;
    if (leftS === 0) location.reload();
    else setTimeout(tick, 250);
  };
  tick();
}
for (const form of document.forms) {
  form.addEventListener('submit', () => {
    for (const button of document.querySelectorAll('button')) button.disabled = true;
  });
}

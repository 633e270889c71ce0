// The opacity of the heat is a matter of the page alone: nothing is asked of the server.
document.addEventListener('input', event => {
  const slider = event.target.closest('.ti-opacity input');
  if (slider) slider.closest('.ti-column').style.setProperty('--ti-heat', slider.value / 100);
});
